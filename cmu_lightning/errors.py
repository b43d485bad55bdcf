"""The one exception that means: the input must change, not the program; and what others say."""


class UserError(ValueError):
    """Something the user gave cannot work; the message is one sentence that names the value and the mend.

    The command line prints the sentence and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """What an error says first; of one that says nothing, nothing."""
    return str(error).strip().partition("\n")[0]
