"""The exception for mistakes of a user, and the first line of any error."""


class UserError(ValueError):
    """Input that cannot work; the message is one sentence that names the value and says what to do.

    The command line prints the message and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, which is empty where there is no message."""
    return str(error).strip().partition("\n")[0]
