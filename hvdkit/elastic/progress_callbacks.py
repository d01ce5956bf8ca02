"""Keep the numbers of epoch and batch in the state."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.data.fit_position import current_position
from hvdkit.elastic.object_state import ObjectState
from hvdkit.engine import topology


class UpdateBatchStateCallback(keras.callbacks.Callback):
    """Keep in `state.batch` how many batches of the epoch are done; 0 between epochs.

    After ranks have changed, the first epoch of the new `fit` passes over as many batches. When
    the number of ranks has changed, `state.batch` is first set to the batches of the new ranks
    that hold as many rows, rounded down, so less than one global batch is trained on twice. In
    data from `hvd.shard` these are the very rows, if `fit` gets `initial_epoch=state.epoch`; in
    data that is shuffled otherwise they are others.

    Args:
        state: a state with the attribute `batch`, such as `KerasState(model, batch=0)`.
    """

    def __init__(self, state: ObjectState) -> None:
        super().__init__()
        self.state: Any = state
        self._resumes = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Count in batches of the present ranks."""
        self._resumes = True
        if self.state.ranks not in (0, topology.size()):
            self.state.batch = self.state.batch * self.state.ranks // topology.size()
            self.state.save()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start after the batches that are done."""
        position = current_position()
        if self._resumes and position is not None:
            position.start_after(self.state.batch)
        self._resumes = False

    def on_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count."""
        self.state.batch = batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start again from 0."""
        self.state.batch = 0


class UpdateEpochStateCallback(keras.callbacks.Callback):
    """Keep in `state.epoch` how many epochs are done.

    `fit` then gets `initial_epoch=state.epoch, epochs=total`; or, as in Horovod's examples,
    `epochs=total - state.epoch`, and then data from `hvd.shard` starts with the order of its
    first epoch again.

    Args:
        state: a state with the attribute `epoch`, such as `KerasState(model, epoch=0)`.
    """

    def __init__(self, state: ObjectState) -> None:
        super().__init__()
        self.state: Any = state
        self._first: int | None = None
        self._done_before = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Count from what is done."""
        self._first = None
        self._done_before = self.state.epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """See where Keras starts to count."""
        if self._first is None:
            self._first = epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Count."""
        assert self._first is not None
        self.state.epoch = self._done_before + epoch - self._first + 1
