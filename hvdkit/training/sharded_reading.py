"""Keras reads data from `hvd.shard`, in the place of x and as validation data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from hvdkit.data.adapter import ShardedAdapter
from hvdkit.data.fit_position import FitPosition, positioned
from hvdkit.data.sharded import ShardedData
from hvdkit.metrics.rows import TEST, TRAINING, end_pass
from hvdkit.training.features import Call, Feature

_READS_SHARDED = "_hvdkit_reads_sharded"
_TRAINS = "_hvdkit_trains"


class ReadSharded(Feature):
    """What `hvd.shard` returns is data for Keras."""

    def before(self, call: Call) -> None:
        """Put what Keras reads in its place; a second `fit` goes on with the next epoch's order."""
        data, validation = call.arguments["x"], call.arguments.get("validation_data")
        if isinstance(data, ShardedData) and call.trains:
            ahead = 0 if call.arguments["initial_epoch"] else data.epoch
            call.add_callback(_FollowEpochs(data, ahead), first=True)
            weights = call.arguments.pop("class_weight")
            call.arguments["x"] = _adapter(call.model, data, class_weight=weights)
            call.arguments["shuffle"] = False
        elif isinstance(data, ShardedData):
            call.arguments["x"] = _adapter(call.model, data, in_order=True)
        if isinstance(validation, ShardedData):
            # It is read in the shares that are measured while `data` is trained on.
            like = data if isinstance(data, ShardedData) else None
            adapter = _adapter(call.model, validation, in_order=True, like=like)
            call.arguments["validation_data"] = adapter


class Position(Feature):
    """A `fit` can start in the middle of an epoch, where a callback has stopped it."""

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """Callbacks find where it stands; `evaluate` and `predict` stand nowhere."""
        adapter = _sharded_adapter(call)
        with positioned(FitPosition(adapter) if call.trains else None):
            yield


class RowsCounted(Feature):
    """Metrics of a pass over sharded data count the rows of all ranks."""

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """The model's metrics are those of sharded data, or not; it trains, or not."""
        state = vars(call.model)
        before = {name: state.get(name, False) for name in (_READS_SHARDED, _TRAINS)}
        state[_READS_SHARDED] = _sharded_adapter(call) is not None
        state[_TRAINS] = call.trains
        # What was counted before belongs to no pass.
        end_pass(call.model, TRAINING if call.trains else TEST)
        try:
            yield
        finally:
            state.update(before)


class ComparedBatch(Feature):
    """After `evaluate`, the ranks compare what could be seen only once it was read."""

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """Compare the first batch."""
        yield
        adapter = _sharded_adapter(call)
        if adapter is not None:
            adapter.data.compare_first_batch()


def reads_sharded(model: Any) -> bool:
    """Whether the model's metrics are those of sharded data now."""
    return bool(vars(model).get(_READS_SHARDED))


def trains(model: Any) -> bool:
    """Whether the model is in a `fit`, and not in its validation."""
    return bool(vars(model).get(_TRAINS))


def end_is_no_surprise(iterator: Any) -> None:
    """Keep Keras from warning at the end of sharded data whose length was not known.

    Args:
        iterator: Keras's epoch iterator over it.
    """
    if not iterator.steps_per_epoch:
        vars(iterator)["_interrupted_warning"] = _nothing


def _nothing() -> None:
    """In the place of a warning."""


def _sharded_adapter(call: Call) -> ShardedAdapter | None:
    adapter = call.arguments["x"]
    return adapter if isinstance(adapter, ShardedAdapter) else None


def _adapter(model: Any, data: ShardedData, **options: Any) -> ShardedAdapter:
    return ShardedAdapter(data, strategy=model.distribute_strategy, **options)


class _FollowEpochs(keras.callbacks.Callback):
    """Tell sharded data which epoch starts; Keras may have read a batch before the first."""

    def __init__(self, data: ShardedData, ahead: int) -> None:
        super().__init__()
        self._data = data
        self._ahead = ahead

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Set its epoch."""
        self._data.set_epoch(epoch + self._ahead)
