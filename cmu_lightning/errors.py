"""The one exception that means: the input must change, not the program."""


class UserError(ValueError):
    """Something the user gave cannot work; the message is one sentence that names the value and the mend.

    The command line prints the sentence and exits with code 2.
    """
