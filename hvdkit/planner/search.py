"""All meshes and exchanges of a job, the fastest that fits, and why the others are not it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from hvdkit.planner.cluster import Cluster
from hvdkit.planner.exchange_costs import ExchangeCost
from hvdkit.planner.fitted import FITTED, Fitted
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.step import StepTime, step_time
from hvdkit.planner.transformer import Degrees
from hvdkit.planner.units import bytes_text, time_text
from hvdkit.planner.work import Model

_MOST_MICRO_BATCHES = 16


@dataclass(frozen=True)
class Candidate:
    """A mesh with an exchange, the fastest micro-batch and number of chunks on it.

    Attributes:
        degrees: the mesh.
        job: with the micro-batch, chunks and exchange of this candidate.
        memory: bytes of the fullest rank.
        step: seconds of a step; None where it does not fit.
        problem: why it can't be used; empty if it can.
    """

    degrees: Degrees
    job: PlannedJob
    memory: float = 0.0
    step: StepTime | None = None
    problem: str = ""

    @property
    def seconds(self) -> float:
        """Of a step; infinite where it can't be used."""
        return self.step.total if self.step and not self.problem else float("inf")


def on_mesh(
    model: Model, cluster: Cluster, job: PlannedJob, degrees: Degrees, fitted: Fitted = FITTED
) -> Candidate:
    """The fastest micro-batch and number of chunks on a mesh, of those that fit.

    Where nothing fits, what needs least.
    """
    limit = cluster.device(degrees, job.share_rows).memory
    best, smallest, problem = None, None, ""
    for rows, chunks in _cuts(job, degrees, model):
        cut = replace(job, micro_batch=rows, chunks=chunks)
        if why := model.misfit(degrees, cut, rows):
            problem = problem or why
            continue
        memory = model.memory(degrees, cut, rows)
        step = step_time(model, cluster, cut, degrees, rows, fitted)
        found = Candidate(degrees, cut, memory, step)
        if smallest is None or memory < smallest.memory:
            smallest = found
        if memory <= limit and (best is None or found.seconds < best.seconds):
            best = found
    if best is not None:
        return best
    if smallest is not None:
        lacks = f"a rank needs {bytes_text(smallest.memory)} of {bytes_text(limit)}"
        return replace(smallest, problem=lacks)
    return Candidate(degrees, job, problem=problem)


def _cuts(job: PlannedJob, degrees: Degrees, model: Model) -> Iterator[tuple[int, int]]:
    """Micro-batches and chunks to try; the job's own where it names them."""
    per_replica = max(1, job.batch // degrees.data)
    if job.micro_batch:
        sizes = [job.micro_batch]
    else:
        sizes = [rows for rows in _divisors(per_replica) if rows <= _MOST_MICRO_BATCHES]
        sizes += [per_replica] if per_replica not in sizes and degrees.pipeline == 1 else []
    most = getattr(getattr(model, "shape", None), "layers", 1) // degrees.pipeline
    if job.chunks is not None:
        chunks = [job.chunks]
    else:
        chunks = _divisors(most) if degrees.pipeline > 1 else [1]
    yield from product(sizes, chunks)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
