"""Which gradients are reduced together.

A grouped reduction starts when the last of its tensors exists, so one group of all gradients
waits for the whole backward pass. Buckets follow the order in which the backward pass makes
gradients: from the last variable to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hvdkit.mesh.variable import variable_key

BUCKET_BYTES = 1 * 2**20
LARGE_TENSOR_BYTES = 1 * 2**20

Bucket = list[int]


class BucketPlan(Protocol):
    """Decides which gradients are reduced in one operation."""

    def plan(self, sizes: Sequence[int], variables: Sequence[object]) -> list[Bucket]:
        """Place each gradient in a bucket.

        Args:
            sizes: bytes of each gradient, in the order of the variables.
            variables: the variables they belong to.

        Returns:
            Lists of positions; each position once. The buckets are in the order in which they
            should start.
        """
        ...


class BackwardOrder:
    """Buckets of about `bucket_bytes`, last variable first; large gradients travel alone.

    A tensor that travels alone is reduced where it lies, without the copies into and out of
    Horovod's fusion buffer.
    """

    def __init__(
        self, bucket_bytes: int = BUCKET_BYTES, large_bytes: int = LARGE_TENSOR_BYTES
    ) -> None:
        self.bucket_bytes = bucket_bytes
        self.large_bytes = large_bytes

    def plan(self, sizes: Sequence[int], variables: Sequence[object]) -> list[Bucket]:
        """See `BucketPlan.plan`."""
        buckets: list[Bucket] = []
        current: Bucket = []
        filled = 0
        for position in reversed(range(len(sizes))):
            if sizes[position] >= self.large_bytes:
                buckets.append([position])
                continue
            if current and filled + sizes[position] > self.bucket_bytes:
                buckets.append(current)
                current, filled = [], 0
            current.append(position)
            filled += sizes[position]
        if current:
            buckets.append(current)
        return buckets


class OneBucket:
    """All gradients in one operation: for eager mode, where all of them exist already."""

    def plan(self, sizes: Sequence[int], variables: Sequence[object]) -> list[Bucket]:
        """See `BucketPlan.plan`."""
        return [list(range(len(sizes)))] if sizes else []


class EqualGroups:
    """A given number of groups with equal numbers of gradients, as Horovod's `groups=int`."""

    def __init__(self, count: int) -> None:
        self.count = count

    def plan(self, sizes: Sequence[int], variables: Sequence[object]) -> list[Bucket]:
        """See `BucketPlan.plan`."""
        order = list(reversed(range(len(sizes))))
        share, rest = divmod(len(order), self.count)
        buckets = []
        for group in range(self.count):
            length = share + (group < rest)
            buckets.append(order[:length])
            order = order[length:]
        return [bucket for bucket in buckets if bucket]


class NamedGroups:
    """The user's lists of variables; every other gradient travels alone.

    Args:
        groups: lists of `keras.Variable` or `tf.Variable`, or of their paths.

    Attributes:
        paths: the groups, by the paths of their variables.
    """

    def __init__(self, groups: Sequence[Sequence[object]]) -> None:
        self.paths = [[_path_of(member) for member in group] for group in groups]
        self._keys = [[_key_of(member) for member in group] for group in groups]

    def plan(self, sizes: Sequence[int], variables: Sequence[object]) -> list[Bucket]:
        """See `BucketPlan.plan`."""
        left = dict(enumerate(variables))
        buckets: list[Bucket] = []
        for group in self._keys:
            bucket: Bucket = []
            for key in group:
                same = [i for i, v in left.items() if key in (variable_key(v), _path_of(v))]
                bucket += same
                for position in same:
                    del left[position]
            buckets.append(bucket)
        alone = [[position] for position in sorted(left, reverse=True)]
        return [bucket for bucket in buckets if bucket] + alone


def _key_of(member: object) -> int | str:
    return member if isinstance(member, str) else variable_key(member)


def _path_of(member: object) -> str:
    if isinstance(member, str):
        return member
    return str(getattr(member, "path", getattr(member, "name", member)))
