"""The largest numbers of each tensor, with their places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvdkit.engine import ProcessSet, ops, topology
from hvdkit.exchange.aggregators import OfRanks
from hvdkit.exchange.base import Aggregated
from hvdkit.exchange.compression.shapes import flat_of, poisoned
from hvdkit.exchange.memory import StepCount, precise
from hvdkit.exchange.tracked import Tracked
from hvdkit.exchange.traffic import Traffic, elements

_INDEX_BYTES = 4


class Largest(OfRanks):
    """An aggregator: of each tensor the numbers of the largest size, and zeros for the others.

    `TopK` without its error feedback and momentum; it describes the arguments. Each rank sends
    its own largest numbers and their places; all add up what all ranks have sent.
    """

    def __init__(self, ratio: float = 0.01, warmup_steps: int = 0) -> None:
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio is above 0 and at most 1, not {ratio}.")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps is at least 0, not {warmup_steps}.")
        self.ratio = ratio
        self.warmup_steps = warmup_steps
        self._ratios = _ratios(ratio) if warmup_steps else []
        self._steps_made = StepCount("largest")

    def build(self, variables: Sequence[Any], ranks: ProcessSet) -> Sequence[Tracked]:
        """See `Aggregator.build`."""
        super().build(variables, ranks)
        return self._steps_made.start(variables, ranks) if self._ratios else ()

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        """See `Aggregator.aggregate`."""
        step = self._steps_made.now(variables) if self._ratios else None
        flat = [flat_of(tensor) for tensor in bucket]
        picked = [
            _largest(numbers, self._count_in_graph(elements(variable), step))
            for numbers, variable in zip(flat, variables, strict=True)
        ]
        gathered = ops.grouped_allgather(
            [part[tf.newaxis] for values_and_places in picked for part in values_and_places],
            name=name,
            process_set=self._ranks,
        )
        everyone = zip(gathered[::2], gathered[1::2], strict=True)
        mean = [
            self._mean(values, places, numbers, tensor)
            for (values, places), numbers, tensor in zip(everyone, flat, bucket, strict=True)
        ]

        def share() -> list[tf.Tensor]:
            return [
                _like(_scattered(tf.zeros_like(numbers), *own), tensor)
                for own, numbers, tensor in zip(picked, flat, bucket, strict=True)
            ]

        return Aggregated(mean, share, [self._steps_made.ticked(variables)] if self._ratios else [])

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """See `Counted.traffic`."""
        sizes = (int(precise(tensor.dtype).size) + _INDEX_BYTES for tensor in tensors)
        counts = (self._count(elements(tensor), step) for tensor in tensors)
        return Traffic(gathered=sum(map(int.__mul__, sizes, counts)))

    def _mean(
        self, values: tf.Tensor, places: tf.Tensor, numbers: tf.Tensor, tensor: tf.Tensor
    ) -> tf.Tensor:
        # Rank by rank: within one no place comes twice, so the sums are the same on all ranks.
        total = tf.foldl(
            lambda so_far, one: _scattered(so_far, *one),
            (values, places),
            initializer=tf.zeros_like(numbers),
        )
        return _like(total / tf.cast(topology.ranks_when_run(self._ranks), total.dtype), tensor)

    def _count(self, size: int, step: int | None) -> int:
        """How many of so many numbers are sent in a step."""
        if step is None or not self._ratios or step >= self.warmup_steps:
            return _share(self.ratio, size)
        return _share(self._ratios[step * len(self._ratios) // self.warmup_steps], size)

    def _count_in_graph(self, size: int, step: tf.Tensor | None) -> int | tf.Tensor:
        if step is None:
            return self._count(size, None)
        counts = [_share(ratio, size) for ratio in [*self._ratios, self.ratio]]
        stage = tf.minimum(step * len(self._ratios) // self.warmup_steps, len(self._ratios))
        return tf.gather(tf.constant(counts, tf.int32), stage)


def _ratios(ratio: float) -> list[float]:
    """A quarter, a quarter of that, and so on, as long as it is more than `ratio`."""
    count = max(0, math.ceil(round(-math.log(ratio, 4), 6)) - 1)
    return [4.0 ** -(stage + 1) for stage in range(count)]


def _share(ratio: float, size: int) -> int:
    return min(size, math.ceil(round(ratio * size, 6)))


def _largest(numbers: tf.Tensor, count: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The largest of some numbers [n] by size, and their places; NaN if one is not finite."""
    sizes = tf.where(tf.math.is_finite(numbers), tf.abs(numbers), tf.zeros_like(numbers))
    places = tf.math.top_k(sizes, count, sorted=False).indices
    return poisoned(tf.gather(numbers, places), numbers), places


def _scattered(numbers: tf.Tensor, values: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Numbers [n] with values added in some places, each of which comes once."""
    return tf.tensor_scatter_nd_add(numbers, places[:, tf.newaxis], values)


def _like(numbers: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.reshape(numbers, tf.shape(tensor)), tensor.dtype)
