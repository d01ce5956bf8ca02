"""What can go wrong, in the user's words."""

from __future__ import annotations


class HvdkitError(RuntimeError):
    """Base class of every error that hvdkit raises by itself."""


class InstallationError(HvdkitError, ImportError):
    """A package is missing, or does not fit the others; the message names the command to run."""


class NotInitializedError(HvdkitError, ValueError):
    """A call that needs the other ranks came before `hvd.init()`."""

    def __init__(self, what: str = "this call") -> None:
        super().__init__(
            f"{what} needs the other ranks, but hvdkit is not initialised: "
            "call hvd.init() once, at the start of the script."
        )


class RankMismatchError(HvdkitError, ValueError):
    """The ranks do not hold the same thing where they must; raised alike on every rank."""


class CollectiveError(HvdkitError):
    """A collective ended without a result: another rank left the job, or did not come in time."""


class NonfiniteGradientError(HvdkitError, ArithmeticError):
    """Gradients held NaN or Inf, and the optimizer was told to stop; raised alike on every rank."""


class FunctionError(HvdkitError):
    """A function that was called on several ranks failed on one; its own error is the cause.

    Attributes:
        rank: the rank that failed first.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


class CheckpointError(HvdkitError):
    """A checkpoint can't be written, or none can be read; raised alike on every rank."""


class ExportError(HvdkitError):
    """A model can't be exported, or what was exported can't be read or run."""


class ModelInputError(HvdkitError, ValueError):
    """An exported model was given what does not fit its inputs; the message says what does."""
