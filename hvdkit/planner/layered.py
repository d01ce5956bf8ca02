"""Any model as the planner sees it, by what is counted of each of its blocks on a rank."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from hvdkit.graph.balance import Range, balance
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.layer_times import DeviceTimes, Passes
from hvdkit.planner.memory_plan import passes_kept
from hvdkit.planner.transformer import Degrees
from hvdkit.planner.work import Stage, batch_misfit


@dataclass(frozen=True)
class Block:
    """Consecutive layers between which no pipeline is cut, as a rank of a tensor group has them.

    Attributes:
        flops: operations of a forward pass of a row.
        kept: numbers that the backward pass keeps of a row.
        weights: numbers of weights that a rank holds.
        trained: those of them that are trained.
        tied: weights of earlier blocks that it uses as well.
        calls: of layers and operations in a forward pass.
        sums: all-reduces over the tensor group in a forward and a backward pass.
        summed: numbers of a row that these add up, together.
        leaving: numbers of a row that go on to the next block.
    """

    flops: float
    kept: float
    weights: int
    trained: int
    tied: int = 0
    calls: int = 1
    sums: int = 0
    summed: float = 0.0
    leaving: float = 0.0


Blocks = tuple[Block, ...]


@dataclass(frozen=True)
class LayeredModel:
    """A model of blocks, and over which meshes it divides.

    Attributes:
        name: what tables call it.
        divisions: its blocks for each tensor degree over which it divides; those for 1 always.
        indivisible: why it does not divide over other tensor degrees.
        no_stages: why it can't be cut into stages at all; None if it can.
        micro_batches: of a replica with several stages; None for any number.
        tokens_of_row: tokens of a row.
    """

    name: str
    divisions: Mapping[int, Blocks] = field(hash=False)
    indivisible: Mapping[int, str] = field(default_factory=dict, hash=False)
    no_stages: str | None = None
    micro_batches: int | None = None
    tokens_of_row: int = 1

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(block.weights for block in self.divisions[1])

    @property
    def divides(self) -> bool:
        """Where it does not, `misfit` says why."""
        return True

    @property
    def layers(self) -> int:
        """Blocks that a pipeline can divide it between."""
        return len(self.divisions[1])

    def flops(self, rows: int, *, recomputed: bool = False) -> float:
        """Three forward passes' for a step; a fourth where they are recomputed."""
        return (4 if recomputed else 3) * rows * sum(block.flops for block in self.divisions[1])

    def misfit(self, degrees: Degrees, job: PlannedJob, rows: int) -> str | None:
        """Why it does not divide over a mesh with micro-batches of some rows."""
        if problem := batch_misfit(degrees, job, rows):
            return problem
        if degrees.tensor not in self.divisions:
            why = self.indivisible.get(degrees.tensor, "that was not tried")
            return f"no layer divides over {degrees.tensor} ranks: {why}."
        count = job.batch // degrees.data // rows
        if degrees.pipeline == 1:
            return "a replica without stages takes all of its rows at once." if count > 1 else None
        if self.no_stages is not None:
            return self.no_stages
        if degrees.pipeline > self.layers:
            return f"it can be cut into {self.layers} stages at most, not {degrees.pipeline}."
        if self.micro_batches is not None and count != self.micro_batches:
            return f"its stages take {self.micro_batches} micro-batches, not {count}."
        return job.schedule.problem(degrees.pipeline, count)

    def stages(
        self, times: DeviceTimes, degrees: Degrees, job: PlannedJob, rows: int
    ) -> list[Stage]:
        """All stages, balanced by their operations."""
        return [
            _stage(self._blocks(degrees, number), times, job, rows)
            for number in range(degrees.pipeline)
        ]

    def memory(self, degrees: Degrees, job: PlannedJob, rows: int) -> float:
        """Bytes of the fullest rank: weights, gradients, slots, and what is kept."""
        count = job.batch // degrees.data // rows
        passes = passes_kept(job.schedule, degrees.pipeline, count)
        of_trained = _bytes_of_trained(degrees, job, count)
        copy = job.bits / 8 if job.bits < job.weight_bits else 0
        found = []
        for number in range(degrees.pipeline):
            blocks = self._blocks(degrees, number)
            weights = sum(block.weights for block in blocks) * (job.weight_bits / 8 + copy)
            trained = sum(block.trained for block in blocks) * of_trained
            if number > 0:  # an earlier stage has them, and updates them
                weights += sum(block.tied for block in blocks) * 2 * job.weight_bits / 8
            kept = sum(block.kept for block in blocks) * rows * job.bits / 8
            found.append(weights + trained + passes[number] * kept)
        return max(found)

    def _blocks(self, degrees: Degrees, stage: int) -> Blocks:
        blocks = self.divisions[degrees.tensor]
        first, end = _ranges(blocks, degrees.pipeline)[stage]
        return blocks[first:end]


def _bytes_of_trained(degrees: Degrees, job: PlannedJob, micro_batches: int) -> float:
    """Of a weight that is trained, besides the weight: gradients, slots, the exchange's."""
    number = job.weight_bits / 8
    share = degrees.data if job.exchange.sharded else 1
    gradients = number * (1 if micro_batches == 1 else 2)
    updated = number / share if share > 1 else 0.0
    return gradients + updated + number * job.optimizer_slots / share + job.exchange.residual


def _stage(blocks: Blocks, times: DeviceTimes, job: PlannedJob, rows: int) -> Stage:
    rate, bits = times.device.rate(times.bits).attainable, times.bits / 8
    # What is kept is written once and read once.
    moved = 2 * rows * sum(block.kept for block in blocks) * bits
    calls = sum(block.calls for block in blocks)
    forward = rows * sum(block.flops for block in blocks) / rate + times.elements(moved, calls)
    again = forward if job.recompute == "full" else 0.0
    sums = sum(block.sums for block in blocks)
    summed = rows * sum(block.summed for block in blocks) * bits
    return Stage(
        Passes(forward, 2 * forward + again),
        sums,
        summed / max(sums, 1),
        rows * blocks[-1].leaving * bits,
        sum(block.trained for block in blocks),
        (),
    )


@functools.lru_cache(maxsize=1000)
def _ranges(blocks: Blocks, stages: int) -> list[Range]:
    """Which blocks are on each stage."""
    costs = [block.flops + block.kept for block in blocks]
    return balance(costs, [float(block.weights) for block in blocks], stages)
