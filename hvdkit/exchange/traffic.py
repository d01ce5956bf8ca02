"""What a method sends in a step, by its own account: the theory that measurements are held to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf


@dataclass(frozen=True)
class Traffic:
    """Bytes that each rank gives to the collectives of a step.

    Attributes:
        reduced: to all-reduces.
        gathered: to all-gathers.
        directly: to other ranks, in messages.
        inside: to collectives inside a host, where there are two levels (`Hierarchical`). The
            others are then those of one rank of each host, between hosts.
    """

    reduced: float = 0
    gathered: float = 0
    inside: float = 0
    directly: float = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.reduced + other.reduced,
            self.gathered + other.gathered,
            self.inside + other.inside,
            self.directly + other.directly,
        )

    @property
    def given(self) -> float:
        """All of them but those inside hosts; papers compare these."""
        return self.reduced + self.gathered + self.directly

    def sent(self, ranks: int) -> float:
        """Bytes that each of some ranks sends over its link, in rings.

        A ring sends what is summed twice, less the own share, and what is gathered once to each of
        the other ranks.

        Args:
            ranks: how many are in the ring; where there are two levels, the number of hosts.
        """
        in_rings = 2 * (ranks - 1) / ranks * self.reduced + (ranks - 1) * self.gathered
        return in_rings + self.directly


@runtime_checkable
class Counted(Protocol):
    """An aggregator, or an exchange, that knows what it sends."""

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """What it sends for some gradients.

        Args:
            tensors: variables, gradients or `tf.TensorSpec`s: what has a shape and a dtype.
            step: the updates before; None for any after a start in which it sends more.
        """
        ...


@runtime_checkable
class Sized(Protocol):
    """A codec that knows how large its payloads are."""

    def payload_bytes(self, tensor: Any) -> int:
        """Bytes of the payload of something that has a shape and a dtype."""
        ...


def elements(tensor: Any) -> int:
    """How many numbers something of a known shape holds."""
    return math.prod(int(size) for size in tensor.shape)


def plain_bytes(tensor: Any) -> int:
    """Bytes of something that has a shape and a dtype, sent as it is."""
    return elements(tensor) * int(tf.as_dtype(tensor.dtype).size)


def traffic_of(method: Any, tensors: Sequence[Any], step: int | None = None) -> Traffic:
    """What an aggregator sends for some gradients.

    Raises:
        TypeError: it does not tell.
    """
    if not isinstance(method, Counted):
        raise TypeError(f"{type(method).__name__} does not say what it sends: it has no traffic().")
    return method.traffic(tensors, step)


def payload_bytes_of(codec: Any, tensors: Sequence[Any]) -> int:
    """Bytes of the payloads of a codec.

    Raises:
        TypeError: it does not tell.
    """
    if not isinstance(codec, Sized):
        raise TypeError(
            f"{type(codec).__name__} does not say what it sends: it has no payload_bytes()."
        )
    return sum(map(codec.payload_bytes, tensors))
