"""What a model has a rank do in a step: times of its stages, and what it has to send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from hvdkit.planner.exchange_costs import Matrix
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.layer_times import DeviceTimes, Passes
from hvdkit.planner.transformer import Degrees


@dataclass(frozen=True)
class Stage:
    """What a rank of one stage does for a micro-batch.

    Attributes:
        passes: computation.
        tensor_sums: all-reduces over the tensor group, forward, backward and recomputed.
        sum_bytes: of each of them.
        link_bytes: that a rank sends to the next stage.
        weights: that the rank holds.
        matrices: shapes of those that are matrices.
    """

    passes: Passes
    tensor_sums: int
    sum_bytes: float
    link_bytes: float
    weights: int
    matrices: tuple[Matrix, ...]


class Model(Protocol):
    """What the planner has to know of a model."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def parameters(self) -> int:
        """Number of weights of the undivided model."""
        ...

    @property
    def tokens_of_row(self) -> int:
        """Tokens of a row; 1 where a row is one thing, such as an image."""
        ...

    @property
    def divides(self) -> bool:
        """Whether it can be divided over tensor groups and stages."""
        ...

    @property
    def layers(self) -> int:
        """Layers that a pipeline can divide it between; 1 where it is not divided."""
        ...

    @property
    def micro_batches(self) -> int | None:
        """Of a replica with several stages; None for any number."""
        ...

    def flops(self, rows: int, *, recomputed: bool = False) -> float:
        """Floating-point operations of a step, those that `recompute="full"` adds on demand."""
        ...

    def misfit(self, degrees: Degrees, job: PlannedJob, rows: int) -> str | None:
        """Why it does not divide over a mesh with micro-batches of some rows."""
        ...

    def stages(
        self, times: DeviceTimes, degrees: Degrees, job: PlannedJob, rows: int
    ) -> list[Stage]:
        """The first stage, one in the middle, and the last, as far as there are so many."""
        ...

    def memory(self, degrees: Degrees, job: PlannedJob, rows: int) -> float:
        """Bytes of the fullest rank."""
        ...


def batch_misfit(degrees: Degrees, job: PlannedJob, rows: int) -> str | None:
    """Why a batch does not divide over replicas and micro-batches of some rows."""
    if job.batch % degrees.data:
        return f"the batch size is {job.batch}, which does not divide by {degrees.data} replicas."
    if job.batch // degrees.data % rows:
        return (
            f"a replica has {job.batch // degrees.data} rows, which do not divide into "
            f"micro-batches of {rows}."
        )
    return None


@dataclass(frozen=True)
class MeasuredModel:
    """A model of which only its size and its operations are known: it is not divided.

    Attributes:
        name: what tables call it.
        parameters: number of weights.
        flops_of_row: operations of a forward pass of a row.
        kept_of_row: numbers that the backward pass keeps of a row.
        rows_per_second: that one device trains, by the device's name, where it was measured.
        matrices: shapes of the weights that are matrices.
        tokens_of_row: tokens of a row.
    """

    name: str
    parameters: int
    flops_of_row: float
    kept_of_row: float = 0.0
    rows_per_second: dict[str, float] = field(default_factory=dict, hash=False)
    matrices: tuple[Matrix, ...] = ()
    tokens_of_row: int = 1

    @property
    def divides(self) -> bool:
        """It is not."""
        return False

    @property
    def layers(self) -> int:
        """It is not divided."""
        return 1

    @property
    def micro_batches(self) -> None:
        """It has no stages."""
        return None

    def flops(self, rows: int, *, recomputed: bool = False) -> float:
        """Three forward passes' for a step; a fourth where they are recomputed."""
        return (4 if recomputed else 3) * rows * self.flops_of_row

    def misfit(self, degrees: Degrees, job: PlannedJob, rows: int) -> str | None:
        """See `Model`."""
        if degrees.tensor > 1 or degrees.pipeline > 1:
            return f"{self.name} is known by its size only, and is not divided here."
        return batch_misfit(degrees, job, rows)

    def stages(
        self, times: DeviceTimes, degrees: Degrees, job: PlannedJob, rows: int
    ) -> list[Stage]:
        """See `Model`."""
        measured = self.rows_per_second.get(times.device.name)
        if measured:
            forward = rows / measured / 3
        else:
            rate = times.device.rate(times.bits).attainable
            # What is kept is written once and read once.
            moved = 2 * rows * self.kept_of_row * times.bits / 8
            forward = rows * self.flops_of_row / rate + times.elements(moved)
        again = forward if job.recompute == "full" else 0.0
        passes = Passes(forward, 2 * forward + again)
        return [Stage(passes, 0, 0.0, 0.0, self.parameters, self.matrices)]

    def memory(self, degrees: Degrees, job: PlannedJob, rows: int) -> float:
        """Weights, gradients, slots, and what the backward pass keeps."""
        share = degrees.data if job.exchange.sharded else 1
        of_weight = 4 + 4 + job.exchange.residual + 4 * job.optimizer_slots / share
        if job.exchange.sharded and degrees.data > 1:
            of_weight += 4 / share
        if job.bits < job.weight_bits:
            of_weight += 2
        return self.parameters * of_weight + rows * self.kept_of_row * job.bits / 8
