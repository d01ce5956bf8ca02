"""Matrices as products of two thin ones, found by one step of a power iteration."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.engine import Average, ProcessSet, ops
from hvdkit.exchange.aggregators import OfRanks
from hvdkit.exchange.base import Aggregated
from hvdkit.exchange.memory import Memory, StepCount, precise
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.exchange.traffic import Traffic, plain_bytes
from hvdkit.mesh.layout import Layout, layout_of, set_layout

_Factored = tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]


class LowRank(OfRanks):
    """An aggregator: the mean of the ranks' matrices, projected onto a few directions.

    `PowerSGD` without its error feedback; it describes the arguments. All ranks hold the same Q
    [m, rank] for a matrix M [n, m]. They sum P = M Q, make its columns orthonormal, sum Q = Mᵀ P,
    and take P Qᵀ: the projection of the mean of the matrices.
    """

    def __init__(
        self, rank: int = 4, start_step: int = 0, min_compression: float = 2.0, seed: int = 0
    ) -> None:
        if rank < 1 or start_step < 0:
            raise ValueError(
                f"rank is at least 1 and start_step at least 0, not {rank} and {start_step}."
            )
        if min_compression <= 0:
            raise ValueError(f"min_compression is above 0, not {min_compression}.")
        self.rank = rank
        self.start_step = start_step
        self.min_compression = min_compression
        self.seed = seed
        self._factors = Memory("low_rank")
        self._steps_made = StepCount("low_rank")

    def build(self, variables: Sequence[Any], ranks: ProcessSet) -> Sequence[Tracked]:
        """See `Aggregator.build`."""
        super().build(variables, ranks)
        rows = [self._factor_of(v, ranks) for v in variables if self.loses(v)]
        return [*rows, *self._steps_made.start(variables, ranks)]

    def loses(self, variable: Any) -> bool:
        """Whether a variable's gradient is projected: whether that makes it small enough."""
        n, m = matrix_shape(variable.shape)
        return (n + m) * self._rank_of(n, m) * self.min_compression < n * m

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        """See `Aggregator.aggregate`."""
        compressed = [v for v in variables if self.loses(v)]
        # Branches are graphs of their own, which do not know the names in those of others.
        name = f"{name}.{self._steps_made.number(variables)}"

        def factored() -> _Factored:
            return self._factored(bucket, variables, name)

        def uncompressed() -> _Factored:
            mean = self._reduced(bucket, f"{name}.uncompressed")
            return mean, list(bucket), [self._factor(v) for v in compressed]

        # All ranks have made the same steps, so all of them go the same way.
        if self.start_step and compressed:
            early = self._steps_made.now(variables) < self.start_step
            mean, sent, factors = tf.cond(early, uncompressed, factored)
        else:
            mean, sent, factors = factored()
        kept = [(self._factors[v], q) for v, q in zip(compressed, factors, strict=True)]
        return Aggregated(mean, lambda: sent, [*kept, self._steps_made.ticked(variables)])

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """See `Counted.traffic`."""
        early = step is not None and step < self.start_step
        return Traffic(
            reduced=sum(
                self._factors_bytes(tensor)
                if self.loses(tensor) and not early
                else plain_bytes(tensor)
                for tensor in tensors
            )
        )

    def _factored(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> _Factored:
        """The means, this rank's shares of them, and the new Q of what is projected."""
        mean, sent = list(bucket), list(bucket)
        projected = [i for i, v in enumerate(variables) if self.loses(v)]
        others = [i for i in range(len(bucket)) if i not in projected]
        old = [self._factor(variables[i]) for i in projected]
        matrices = [
            tf.reshape(tf.cast(bucket[i], q.dtype), matrix_shape(variables[i].shape))
            for i, q in zip(projected, old, strict=True)
        ]
        products = [m @ orthonormal(q) for m, q in zip(matrices, old, strict=True)]
        reduced = self._reduced([*products, *(bucket[i] for i in others)], f"{name}.p")
        bases = [orthonormal(p) for p in reduced[: len(projected)]]
        for i, plain_mean in zip(others, reduced[len(projected) :], strict=True):
            mean[i] = plain_mean
        own = [tf.matmul(m, p, transpose_a=True) for m, p in zip(matrices, bases, strict=True)]
        factors = self._reduced(own, f"{name}.q")
        for i, p, mine, q in zip(projected, bases, own, factors, strict=True):
            for tensors, factor in ((mean, q), (sent, mine)):
                product = tf.matmul(p, factor, transpose_b=True)
                tensors[i] = tf.cast(tf.reshape(product, tf.shape(bucket[i])), bucket[i].dtype)
        return mean, sent, [_alive(q, before) for q, before in zip(factors, old, strict=True)]

    def _reduced(self, tensors: Sequence[tf.Tensor], name: str) -> list[tf.Tensor]:
        if not tensors:
            return []
        return ops.grouped_allreduce(tensors, Average, name=name, process_set=self._ranks)

    def _factor(self, variable: Any) -> tf.Tensor:
        return tf.convert_to_tensor(self._factors[variable].value)

    def _factor_of(self, variable: Any, ranks: ProcessSet) -> Tracked:
        """Q, of random numbers that are the same on all ranks."""
        n, m = matrix_shape(variable.shape)
        path = self._factors.path(variable)
        rng = np.random.default_rng([self.seed, zlib.crc32(f"{n}x{m}".encode())])
        start = rng.normal(size=(m, self._rank_of(n, m)))
        made = self._factors.add(variable, start, precise(variable.dtype))
        layout = _stacked(layout_of(variable))
        if layout is not None:
            set_layout(made, layout)
        return Tracked(made, Role.SLOT, path, layout, same_on=ranks)

    def _factors_bytes(self, tensor: Any) -> int:
        n, m = matrix_shape(tensor.shape)
        return (n + m) * self._rank_of(n, m) * int(precise(tensor.dtype).size)

    def _rank_of(self, n: int, m: int) -> int:
        return min(self.rank, n, m)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """A kernel as a matrix [n, m]: its leading axes by its trailing ones, n + m the smallest.

    For the kernels of dense and convolution layers, whose last axis is the output, it is the
    matrix [everything else, output], and for those of attention [inputs, outputs].

    Returns:
        (number of elements, 1) for a vector and (1, 1) for a number.
    """
    sizes = [int(size) for size in shape]
    splits = [
        (math.prod(sizes[:axis]), math.prod(sizes[axis:])) for axis in range(len(sizes) - 1, 0, -1)
    ]
    return min(splits, key=sum, default=(math.prod(sizes), 1))


def orthonormal(matrix: tf.Tensor) -> tf.Tensor:
    """A matrix [n, r] with orthonormal columns that span the same space; zeros stay zeros.

    Gram-Schmidt, twice for each column, so that one that nearly depends on those before it becomes
    orthogonal to them, too. A matrix with NaN or Inf in it becomes one with NaN.
    """
    done = matrix[:, :0]
    scaled = tf.math.divide_no_nan(matrix, tf.reduce_max(tf.abs(matrix)))  # squares may underflow
    for column in range(matrix.shape[1]):
        rest = _unit(scaled[:, column : column + 1])
        for _ in range(2):
            rest = _unit(rest - done @ tf.matmul(done, rest, transpose_a=True))
        done = tf.concat([done, rest], axis=1)
    return done


def _unit(column: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(column, tf.norm(column))


def _alive(factor: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
    """A new Q; a column of zeros would be one for good, so it stays as it was before."""
    is_zero = tf.reduce_all(factor == 0, axis=0, keepdims=True)
    return tf.where(is_zero, before, factor)


def _stacked(layout: Layout | None) -> Layout | None:
    """How Q of a shard lies over the ranks: each has its own, as if they were one, by rows."""
    if layout is None:
        return None
    return Layout(layout.mesh, {axis: 0 for axis, _ in layout.sharded_axes()})
