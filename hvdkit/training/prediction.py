"""Predictions of all ranks, in the order of the input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data.adapter import ShardedAdapter
from hvdkit.data.batch import data_of, is_real
from hvdkit.data.rows import batch_rows, take_rows
from hvdkit.engine import allgather_object, ops
from hvdkit.mesh.mesh import replicas
from hvdkit.training.features import Call, Feature

_SENT_AS_TENSORS = ("bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64")

_reading: ContextVar[RowsRead | None] = ContextVar("hvdkit_rows_read", default=None)


def rows_being_read() -> RowsRead | None:
    """What notes the rows of the `predict` that runs, on sharded data; None for other data."""
    return _reading.get()


class PredictionsOfAllRanks(Feature):
    """Each rank predicts its part of sharded data; all of them return what all have predicted.

    That is a row for each row of the whole data, in its order, on every rank: where the shapes of
    the ranks' predictions differ, as a ragged tensor.
    """

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """Note which rows are read, and collect what they gave.

        Raises:
            ValueError: the predictions have another number of rows than the data.
            RankMismatchError: on every rank: they have read different data.
        """
        adapter = call.arguments["x"]
        if not isinstance(adapter, ShardedAdapter) or adapter.sharding.size == 1:
            yield
            return
        read = RowsRead(adapter)
        token = _reading.set(read)
        try:
            yield
        finally:
            _reading.reset(token)
        adapter.data.compare_first_batch()
        call.result = read.over_ranks(call.result)


class RowsRead:
    """Which rows of the whole data one `predict` reads on this rank.

    Args:
        adapter: what this rank reads.
    """

    def __init__(self, adapter: ShardedAdapter) -> None:
        self._adapter = adapter
        self._positions: list[np.ndarray] = []
        self._real: list[np.ndarray] = []

    def follow(self, iterator: Any, steps: Iterator[Any]) -> Iterator[Any]:
        """Keras's steps over the data, with plain batches that are noted as they are read."""
        ours = iterator.data_adapter is self._adapter
        for first, last, batches in steps:
            yield first, last, self._noted(batches) if ours else batches

    def over_ranks(self, outputs: Any) -> Any:
        """This rank's predictions, and those of the others: see `PredictionsOfAllRanks`."""
        real = np.concatenate(self._real)
        leaves = [_Leaf(value) for value in keras.tree.flatten(outputs)]
        for leaf in leaves:
            if leaf.rows != len(real):
                raise ValueError(
                    f"the model's output has {leaf.rows} rows for {len(real)} rows of data, so "
                    "the predictions of the ranks can't be put in order."
                )
        own = np.flatnonzero(real)
        positions = np.concatenate(self._positions)[own]
        everyone = allgather_object(
            (positions, [leaf.kind for leaf in leaves]), process_set=replicas()
        )
        places = np.concatenate([each for each, _ in everyone])
        order = np.lexsort((places[:, 1], places[:, 0]))
        whole = [
            leaf.over_ranks(own, order, [kinds[number] for _, kinds in everyone])
            for number, leaf in enumerate(leaves)
        ]
        return keras.tree.pack_sequence_as(outputs, whole)

    def _noted(self, batches: Iterator[Any]) -> Iterator[Any]:
        source, sharding = self._adapter.data.source, self._adapter.sharding
        for batch in batches:
            parts = self._adapter.parts_on_replicas(batch)
            rows = [int(batch_rows(data_of(part))) for part in parts]
            real = np.repeat(list(map(is_real, parts)), rows)
            # Of the parts on several devices some may be padding, after all that is not.
            count = max(1, int(real.sum()))
            positions = np.zeros([len(real), 2], np.int64)
            positions[:count] = source.positions(sharding, len(self._positions), count)
            self._positions.append(positions)
            self._real.append(real)
            yield data_of(batch)


class _Leaf:
    """One output of a model on this rank: an array, or a ragged or sparse tensor."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.rows = int(batch_rows(value))

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal on ranks whose values can be put together as dense tensors."""
        if isinstance(self._value, np.ndarray):
            return self._value.dtype.name, self._value.shape[1:]
        return (type(self._value).__name__,)

    def over_ranks(self, own: np.ndarray, order: np.ndarray, kinds: list[tuple[Any, ...]]) -> Any:
        """The rows `own` of all ranks, put in an order."""
        value = self._value
        if len(own) < self.rows:
            value = value[own] if isinstance(value, np.ndarray) else take_rows(value, own)
        if set(kinds) == {self.kind} and self.kind[0] in _SENT_AS_TENSORS:
            return ops.allgather(tf.constant(value), process_set=replicas()).numpy()[order]
        parts = allgather_object(value, process_set=replicas())
        if all(isinstance(part, np.ndarray) for part in parts) and len(set(kinds)) == 1:
            return np.concatenate(parts)[order]
        if any(isinstance(part, tf.SparseTensor) for part in parts):
            return take_rows(tf.sparse.concat(0, parts, expand_nonconcat_dims=True), order)
        return take_rows(tf.concat(_as_ragged(parts), 0), order)


def _as_ragged(parts: list[Any]) -> list[tf.RaggedTensor]:
    """Ragged tensors that can be put together: all with the same ragged dimensions."""
    dense = np.array([part.shape[1:] for part in parts if isinstance(part, np.ndarray)])
    differing = np.flatnonzero((dense != dense[:1]).any(0)) if len(dense) else dense
    rank = max(
        [part.ragged_rank for part in parts if isinstance(part, tf.RaggedTensor)]
        + [int(axis) + 1 for axis in differing]
    )

    def ragged(part: Any) -> tf.RaggedTensor:
        if isinstance(part, np.ndarray):
            return tf.RaggedTensor.from_tensor(part, ragged_rank=rank)
        if part.ragged_rank == rank:
            return part
        inner = tf.RaggedTensor.from_tensor(part.flat_values, ragged_rank=rank - part.ragged_rank)
        return part.with_flat_values(inner)

    return [ragged(part) for part in parts]
