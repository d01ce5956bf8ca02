"""The one exception that the commands turn into a message and exit status 1."""


class CommandError(Exception):
    """Something the user can mend.

    Args:
        message: What is wrong, in one sentence.
        remedy: What to do about it, as a command where there is one.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
