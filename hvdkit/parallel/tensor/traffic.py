"""How much the layers of a tensor group communicate."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import tensorflow as tf

_listening: list[Traffic] = []


@dataclass
class Traffic:
    """What the collectives of tensor-parallel layers move.

    Attributes:
        calls: number of collectives, by kind: "all-reduce", "all-gather" or "reduce-scatter".
        bytes: what this rank sends in them, by kind, where they go round a ring: (N-1)/N of the
            unsharded tensor in an all-gather or a reduce-scatter, and twice that in an all-reduce.
    """

    calls: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    @property
    def total_bytes(self) -> int:
        """The bytes of all kinds together."""
        return self.bytes.total()


@contextlib.contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count the collectives of tensor-parallel layers inside a `with` block.

    Those that run eagerly are counted when they run, those of a `tf.function` when it is traced.

    Raises:
        ValueError: inside, when a function is traced for shapes that are not known.

    Example:
        >>> with count_traffic() as traffic:
        ...     block(x)
        >>> traffic.calls["all-reduce"]
        2
    """
    traffic = Traffic()
    _listening.append(traffic)
    try:
        yield traffic
    finally:
        # By identity: two counts of the same are equal.
        _listening[:] = [other for other in _listening if other is not traffic]


def note(kind: str, tensor: tf.Tensor, sent: float) -> None:
    """Count a collective.

    Args:
        kind: which.
        tensor: what this rank gives to it.
        sent: what this rank sends of it, as a factor of its size.
    """
    if not _listening:
        return
    elements = tensor.shape.num_elements()
    if elements is None:
        raise ValueError(
            f"the bytes of a tensor of shape {tensor.shape} can't be counted: trace the function "
            "for fixed shapes, or run it eagerly."
        )
    for traffic in _listening:
        traffic.calls[kind] += 1
        traffic.bytes[kind] += round(sent * elements * tensor.dtype.size)
