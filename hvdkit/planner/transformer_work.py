"""A Transformer of given sizes as the planner sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hvdkit.planner import layer_times
from hvdkit.planner.exchange_costs import Matrix
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.layer_times import DeviceTimes
from hvdkit.planner.memory_plan import Training, misfit, passes_kept, plan_memory
from hvdkit.planner.transformer import Degrees, TransformerShape
from hvdkit.planner.work import Stage, batch_misfit


@dataclass(frozen=True)
class Transformer:
    """A GPT.

    Attributes:
        shape: its sizes.
        name: what tables call it.
    """

    shape: TransformerShape
    name: str = "GPT"

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.shape.parameters

    @property
    def tokens_of_row(self) -> int:
        """Tokens of a row."""
        return self.shape.context

    @property
    def divides(self) -> bool:
        """It is."""
        return True

    @property
    def layers(self) -> int:
        """Layers that a pipeline can divide it between."""
        return self.shape.layers

    @property
    def micro_batches(self) -> None:
        """Any number."""
        return None

    def flops(self, rows: int, *, recomputed: bool = False) -> float:
        """Operations of the matrix products of a step, with all scores of the attention.

        72 B s l w^2 (1 + s / (6 w) + V / (12 l w)), and with all layers recomputed
        96 B s l w^2 (1 + s / (6 w) + V / (16 l w)). Source: arXiv 2104.04473, appendix.
        """
        shape = self.shape
        of_layers, of_head = (96, 16) if recomputed else (72, 12)
        parts = 1 + shape.context / (6 * shape.width)
        parts += shape.vocabulary / (of_head * shape.layers * shape.width)
        return of_layers * rows * shape.context * shape.layers * shape.width**2 * parts

    def misfit(self, degrees: Degrees, job: PlannedJob, rows: int) -> str | None:
        """Why it does not divide over a mesh with micro-batches of some rows."""
        if problem := batch_misfit(degrees, job, rows):
            return problem
        if problem := misfit(self.shape, degrees, self.training(degrees, job, rows)):
            return problem
        if degrees.pipeline > 1:
            count = job.batch // degrees.data // rows
            return job.schedule.problem(degrees.pipeline, count)
        return None

    def stages(
        self, times: DeviceTimes, degrees: Degrees, job: PlannedJob, rows: int
    ) -> list[Stage]:
        """The first stage, one in the middle, and the last."""
        shape, tensor = self.shape, degrees.tensor
        layers = shape.layers // degrees.pipeline
        body = layer_times.layer(times, shape, rows, tensor, job).times(layers)
        last = body + layer_times.head(times, shape, rows, tensor, job)
        of_number = job.bits / 8
        activation = rows * shape.context * shape.width * of_number
        # Two sums forward and two backward; recomputation does those of the forward pass again.
        sums = layers * (6 if job.recompute == "full" else 4) if tensor > 1 else 0
        share = tensor if job.sequence_parallel or job.implementation.state_bytes else 1
        numbers = sorted({0, min(1, degrees.pipeline - 1), degrees.pipeline - 1})
        return [
            Stage(
                last if number == degrees.pipeline - 1 else body,
                sums,
                activation,
                activation / share,
                shape.parameters_of(number, degrees),
                self._matrices(number, degrees),
            )
            for number in numbers
        ]

    def memory(self, degrees: Degrees, job: PlannedJob, rows: int) -> float:
        """Bytes of the fullest rank; of Keras's layers those of `plan_memory`."""
        of_state = job.implementation.state_bytes
        if of_state is None:
            plan = plan_memory(self.shape, degrees, self.training(degrees, job, rows))
            residual = job.exchange.residual
            return max(stage.total + residual * stage.parameters for stage in plan)
        weights, gradients, optimizer = of_state
        if job.exchange.fully:
            each = (weights + gradients + optimizer) / degrees.data
        elif job.exchange.sharded:
            each = weights + gradients + optimizer / degrees.data
        else:
            each = weights + gradients + optimizer + job.exchange.residual
        return max(
            self.shape.parameters_of(stage, degrees) * each
            + self._kept_of_fused(stage, degrees, job, rows)
            for stage in range(degrees.pipeline)
        )

    def _kept_of_fused(self, stage: int, degrees: Degrees, job: PlannedJob, rows: int) -> float:
        """Bytes that a stage of fused layers keeps; with recomputation the inputs of its layers."""
        shape, kept = self.shape, job.implementation.kept
        if job.recompute == "selective":
            kept = replace(kept, scores=0)
        arguments = (shape, rows, degrees.tensor, job.sequence_parallel)
        count = job.batch // degrees.data // rows
        passes = passes_kept(job.schedule, degrees.pipeline, count)[stage]
        layers = shape.layers // (degrees.pipeline * job.schedule.chunks)
        one = kept.layer(*arguments)
        head = kept.head(*arguments) if stage == degrees.pipeline - 1 else 0.0
        if job.recompute != "full":
            return passes * layers * one + head
        inputs = (
            2
            * shape.context
            * rows
            * shape.width
            / (degrees.tensor if job.sequence_parallel else 1)
        )
        return passes * layers * inputs + one + head

    def training(self, degrees: Degrees, job: PlannedJob, rows: int) -> Training:
        """What the plan of memory has to know of a job."""
        return Training(
            batch_size=job.batch,
            micro_batches=max(1, job.batch // degrees.data // rows),
            precision=job.precision,
            optimizer_slots=job.optimizer_slots,
            sharded_optimizer=job.exchange.sharded,
            sequence_parallel=job.sequence_parallel and degrees.tensor > 1,
            recompute=job.recompute == "full",
            schedule=job.schedule,
        )

    def _matrices(self, stage: int, degrees: Degrees) -> tuple[Matrix, ...]:
        shape, tensor = self.shape, degrees.tensor
        width, of_tensor = shape.width, shape.width // tensor
        layer = [(width, 3 * of_tensor), (of_tensor, width)]
        layer += [(width, 4 * of_tensor), (4 * of_tensor, width)]
        found = layer * (shape.layers // degrees.pipeline)
        if stage in (0, degrees.pipeline - 1):
            found.append((shape.vocabulary // tensor, width))
        return tuple(found)
