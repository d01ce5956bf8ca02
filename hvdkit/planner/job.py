"""How a model is trained, as far as time and memory depend on it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from hvdkit.planner.exchange_costs import EXCHANGES, ExchangeCost
from hvdkit.planner.implementation import Implementation, implementation
from hvdkit.schedules.schedules import Interleaved, OneForwardOneBackward, Schedule

Recompute = Literal["none", "selective", "full"]

_BITS = {
    "float32": (32, 32),
    "bfloat16": (16, 16),
    "float16": (16, 16),
    "mixed_bfloat16": (32, 16),
    "mixed_float16": (32, 16),
}


@dataclass(frozen=True)
class PlannedJob:
    """A training.

    Attributes:
        batch: rows of a step, over all replicas.
        precision: a dtype policy of Keras's.
        recompute: what the backward pass computes again: nothing, the attention's scores, or
            all of each layer.
        exchange: how replicas stay together.
        micro_batch: rows that go through a model at once; None for the fastest that fits.
        chunks: of the model on each stage of a pipeline; None for the fastest.
        sequence_parallel: whether what is between sharded layers is sharded too.
        implementation_name: "keras", "fused" or "flash".
        overlap: whether gradients travel beside the backward pass.
        overlap_tensor: whether sums over a tensor group travel beside products, too.
        share_rows: whether unequal devices get rows in proportion to their speed.
        optimizer_slots: variables that the optimizer has for each weight.
    """

    batch: int
    precision: str = "mixed_bfloat16"
    recompute: Recompute = "none"
    exchange: ExchangeCost = EXCHANGES["all-reduce"]
    micro_batch: int | None = None
    chunks: int | None = 1
    sequence_parallel: bool = False
    implementation_name: str = "keras"
    overlap: bool = True
    overlap_tensor: bool = False
    share_rows: bool = False
    optimizer_slots: int = 2

    def __post_init__(self) -> None:
        if self.precision not in _BITS:
            raise ValueError(
                f"there is no precision {self.precision!r}: there are {', '.join(_BITS)}."
            )
        if self.batch < 1 or (self.chunks or 1) < 1 or (self.micro_batch or 1) < 1:
            raise ValueError("batch, micro-batch and chunks are 1 or more.")
        if self.recompute == "selective" and self.implementation_name == "keras":
            raise ValueError(
                "Keras's layers do not recompute the attention's scores alone: plan for "
                "recomputation none or full, or for fused layers."
            )

    @property
    def bits(self) -> int:
        """Of a number that is computed with."""
        return _BITS[self.precision][1]

    @property
    def weight_bits(self) -> int:
        """Of a weight."""
        return _BITS[self.precision][0]

    @property
    def schedule(self) -> Schedule:
        """The pipeline's."""
        return _schedule(self.chunks or 1)

    @property
    def implementation(self) -> Implementation:
        """How its layers are computed."""
        return implementation(self.implementation_name, self.bits)


@functools.cache
def _schedule(chunks: int) -> Schedule:
    """The same object for the same schedule, so that what is known of it is found again."""
    return OneForwardOneBackward() if chunks == 1 else Interleaved(chunks)
