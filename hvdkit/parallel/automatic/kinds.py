"""What a layer can become in a divided model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Columns:
    """How a layer's outputs are sharded.

    Attributes:
        kernel: the axis of the kernel.
        bias: the axis of the bias; None without one.
        output: the axis of what it returns.
    """

    kernel: int
    bias: int | None
    output: int


@dataclass(frozen=True)
class Row:
    """A layer that sums over what is sharded.

    Attributes:
        kernel: the axis of the kernel.
        input: the axis of its input.
    """

    kernel: int
    input: int


@dataclass(frozen=True)
class Gathered:
    """A layer whose outputs are sharded, and joined at its end: it has no layer that sums."""

    columns: Columns


@dataclass(frozen=True)
class Rows:
    """An embedding, of whose rows each rank holds some."""


@dataclass(frozen=True)
class Dropped:
    """A dropout of what is sharded along an axis."""

    axis: int


Role = Columns | Row | Gathered | Rows | Dropped


@dataclass
class Roles:
    """What the layers of a model become.

    Attributes:
        layers: each layer that is divided, with its role, by its id.
        names: how messages name a layer, by its id.
        reasons: why a layer stays whole, by its id.
        sharded: ids of the tensors of the graph of which each rank has a shard.
    """

    layers: dict[int, tuple[Any, Role]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    sharded: frozenset[int] = frozenset()
