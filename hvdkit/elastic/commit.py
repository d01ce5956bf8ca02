"""Commit the state while Keras trains."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.elastic.object_state import ObjectState


class CommitStateCallback(keras.callbacks.Callback):
    """Commit the state every few batches, and at the end of each epoch.

    A commit is made before the next batch or epoch starts, when all callbacks have heard of the
    last one; so the place of this callback among them does not matter. Subclasses can extend
    `commit`.

    Args:
        state: the state, such as `KerasState`.
        batches_per_commit: batches between two commits. A rank that dies costs the others at
            most these; ranks that wait to join wait for a commit.

    Raises:
        ValueError: `batches_per_commit` is not positive.
    """

    def __init__(self, state: ObjectState, batches_per_commit: int = 1) -> None:
        super().__init__()
        if batches_per_commit < 1:
            raise ValueError(f"batches_per_commit is at least 1, not {batches_per_commit}.")
        self.state = state
        self.batches_per_commit = batches_per_commit
        self._since_commit = 0
        self._epoch_ended = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Count from here, alike on every rank."""
        self._since_commit = 0
        self._epoch_ended = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Commit the epoch before."""
        self._commit_epoch()

    def on_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Commit, if it is time."""
        if self._since_commit >= self.batches_per_commit:
            self._make_commit()

    def on_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count."""
        self._since_commit += 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember to commit."""
        self._epoch_ended = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Commit the last epoch."""
        self._commit_epoch()

    def _commit_epoch(self) -> None:
        if self._epoch_ended:
            self._make_commit()

    def _make_commit(self) -> None:
        self._since_commit = 0
        self._epoch_ended = False
        self.commit()

    def commit(self) -> None:
        """Commit the state; called when it is time, to be extended by subclasses."""
        self.state.commit()
