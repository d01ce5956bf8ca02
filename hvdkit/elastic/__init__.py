"""Horovod Elastic for Keras: the names. Using one says that it is not in this version."""

from __future__ import annotations

from typing import Any, NoReturn

_MESSAGE = (
    "hvd.elastic.{name} is not available in this version of hvdkit: Horovod's own elastic layer "
    "does not work on Keras 3, and hvdkit's is not finished. Start the job without --min-np."
)


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(_MESSAGE.format(name=name))


def run(func: Any) -> Any:
    """Decorate a training function so that it survives changes of the ranks."""
    _refuse("run")


class KerasState:
    """State of a Keras model and optimizer that is committed and restored."""

    def __init__(
        self, model: Any, optimizer: Any = None, backend: Any = None, **kwargs: Any
    ) -> None:
        _refuse("KerasState")


class CommitStateCallback:
    """Commit the state every few batches."""

    def __init__(self, state: Any, batches_per_commit: int = 1) -> None:
        _refuse("CommitStateCallback")


class UpdateBatchStateCallback:
    """Keep the number of the batch in the state."""

    def __init__(self, state: Any) -> None:
        _refuse("UpdateBatchStateCallback")


class UpdateEpochStateCallback:
    """Keep the number of the epoch in the state."""

    def __init__(self, state: Any) -> None:
        _refuse("UpdateEpochStateCallback")


__all__ = [
    "CommitStateCallback",
    "KerasState",
    "UpdateBatchStateCallback",
    "UpdateEpochStateCallback",
    "run",
]
