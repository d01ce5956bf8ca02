"""Variables that travel together: their gradients to the owners, their new values to all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvdkit.engine import Average, ProcessSet, ops, topology
from hvdkit.exchange.compression.casts import AsIs
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.sharded.member import Member
from hvdkit.exchange.sharded.placement import even_ranges, overlaps
from hvdkit.exchange.sparse import allreduce_slices
from hvdkit.mesh.variable import raw


class Bucket(ABC):
    """Variables of one type that are reduced in one operation, and gathered in one.

    Attributes:
        members: the variables, in their order.
    """

    members: list[Member]

    def __init__(self, members: Sequence[Member], ranks: ProcessSet, number: int) -> None:
        self.members = list(members)
        self._ranks = ranks
        self._number = number

    @abstractmethod
    def reduce(self, gradients: Sequence[Gradient], name: str) -> list[tf.Tensor]:
        """The mean of gradients over the ranks.

        Args:
            gradients: one for each member: a tensor, `tf.IndexedSlices`, or None, which counts
                as 0.
            name: names the operation between ranks.

        Returns:
            Those of what this rank owns, in the shapes of that.
        """

    @abstractmethod
    def gather(self, updated: Sequence[bool]) -> None:
        """Set the variables to what their owners have made of them.

        Args:
            updated: for each member, whether what is owned of it was updated; the same on all
                ranks.
        """

    def _gathered(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        own = parts[0] if len(parts) == 1 else tf.concat(parts, 0)
        return ops.allgather(
            own, name=f"hvdkit_sharded.gather{self._number}", process_set=self._ranks
        )


class ByElement(Bucket):
    """Variables laid end to end, of which each rank owns as many elements.

    A reduce-scatter gives each rank the gradient of its elements. One variable alone is sent from
    where it lies and received where it will lie; several are copied into one tensor.

    Args:
        variables: of one type.
        ranks: the ranks.
        number: names the operations between ranks; the same on all of them, as paths are not where
            a rank has made more layers.
    """

    def __init__(self, variables: Sequence[Any], ranks: ProcessSet, number: int) -> None:
        sizes = [raw(variable).shape.num_elements() for variable in variables]
        place = topology.process_set_ranks(ranks).index(topology.rank())
        of_rank = even_ranges(sum(sizes), topology.process_set_size(ranks))[place]
        ranges = overlaps(sizes, of_rank)
        members = [Member(v, *own) for v, own in zip(variables, ranges, strict=True)]
        super().__init__(members, ranks, number)

    def reduce(self, gradients: Sequence[Gradient], name: str) -> list[tf.Tensor]:
        """See `Bucket.reduce`."""
        if len(self.members) == 1 and isinstance(gradients[0], tf.IndexedSlices):
            return [self._own_rows(gradients[0], name)]
        parts = [_flat(g, m) for g, m in zip(gradients, self.members, strict=True)]
        (reduced,) = ops.grouped_reducescatter(
            [parts[0] if len(parts) == 1 else tf.concat(parts, 0)],
            name=f"{name}/sharded{self._number}",
            process_set=self._ranks,
        )
        lengths = [member.shard.size for member in self.members]
        reduced = tf.ensure_shape(reduced, [sum(lengths)])
        own = [reduced] if len(lengths) == 1 else tf.split(reduced, lengths)
        return [tf.reshape(g, m.owned.shape) for g, m in zip(own, self.members, strict=True)]

    def gather(self, updated: Sequence[bool]) -> None:
        """See `Bucket.gather`."""
        gathered = self._gathered(
            [
                member.updated_elements() if is_new else member.own_elements()
                for member, is_new in zip(self.members, updated, strict=True)
            ]
        )
        sizes = [member.size for member in self.members]
        gathered = tf.ensure_shape(gathered, [sum(sizes)])
        values = [gathered] if len(sizes) == 1 else tf.split(gathered, sizes)
        for member, is_new, value in zip(self.members, updated, values, strict=True):
            if is_new:
                member.take(value)

    def _own_rows(self, slices: tf.IndexedSlices, name: str) -> tf.Tensor:
        """The owned elements of the mean of sparse gradients: only rows that occur travel."""
        (member,) = self.members
        mean = allreduce_slices(
            slices, Average, AsIs(), self._ranks, name=f"{name}/sharded{self._number}"
        )
        columns = member.size // member.shape[0]
        first, last = member.shard.start // columns, -(-member.shard.stop // columns)
        # Rows outside get a negative number, and are left out.
        inside = (mean.indices >= first) & (mean.indices < last)
        rows = tf.math.unsorted_segment_sum(
            tf.cast(mean.values, member.variable.dtype),
            tf.where(inside, mean.indices - first, -1),
            last - first,
        )
        start = member.shard.start - first * columns
        own = tf.reshape(rows, [-1])[start : start + member.shard.size]
        return tf.reshape(own, member.owned.shape)


class ByVariable(Bucket):
    """Variables that are updated each by one rank, which has to see all of it.

    Gradients are all-reduced, and all but the owner's are dropped.

    Args:
        variables: of one type.
        owners: for each, the position of its owner among the ranks.
        ranks: the ranks.
        number: see `ByElement`.
    """

    def __init__(
        self, variables: Sequence[Any], owners: Sequence[int], ranks: ProcessSet, number: int
    ) -> None:
        place = topology.process_set_ranks(ranks).index(topology.rank())
        sizes = [raw(variable).shape.num_elements() for variable in variables]
        members = [
            Member(variable, 0, size if owner == place else 0)
            for variable, size, owner in zip(variables, sizes, owners, strict=True)
        ]
        super().__init__(members, ranks, number)
        # Gathered are those of the first rank, then those of the second.
        self._order = sorted(range(len(owners)), key=lambda i: (owners[i], i))

    def reduce(self, gradients: Sequence[Gradient], name: str) -> list[tf.Tensor]:
        """See `Bucket.reduce`."""
        reduced: list[Gradient] = list(gradients)
        name = f"{name}/sharded{self._number}"
        dense = []
        for i, gradient in enumerate(gradients):
            if isinstance(gradient, tf.IndexedSlices):
                reduced[i] = allreduce_slices(
                    gradient, Average, AsIs(), self._ranks, name=f"{name}.rows{i}"
                )
            elif gradient is not None:
                dense.append(i)
        if dense:
            means = ops.grouped_allreduce(
                [reduced[i] for i in dense], name=name, process_set=self._ranks
            )
            for i, mean in zip(dense, means, strict=True):
                reduced[i] = mean
        return [
            g if m.is_whole else tf.zeros(m.owned.shape, m.variable.dtype)
            for g, m in zip(reduced, self.members, strict=True)
        ]

    def gather(self, updated: Sequence[bool]) -> None:
        """See `Bucket.gather`."""
        order = [i for i in self._order if updated[i]]
        members = [self.members[i] for i in order]
        own = [m.updated_elements() for m in members if m.is_whole]
        dtype = tf.as_dtype(members[0].variable.dtype)
        gathered = self._gathered(own or [tf.zeros([0], dtype)])
        sizes = [member.size for member in members]
        gathered = tf.ensure_shape(gathered, [sum(sizes)])
        for member, value in zip(members, tf.split(gathered, sizes), strict=True):
            member.take(value)


def _flat(gradient: Gradient, member: Member) -> tf.Tensor:
    dtype = tf.as_dtype(member.variable.dtype)
    if gradient is None:
        return tf.zeros([member.size], dtype)
    dense = tf.cast(tf.convert_to_tensor(gradient), dtype)
    return tf.ensure_shape(tf.reshape(dense, [-1]), [member.size])
