"""All meshes and exchanges of a job, the fastest that fits, and why the others are not it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from hvdkit.planner.cluster import Cluster
from hvdkit.planner.exchange_costs import ExchangeCost, exchange_cost
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


@dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        model: what is trained.
        cluster: on what.
        candidates: what can be used, the fastest first; then what can't.
    """

    model: Model
    cluster: Cluster
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate | None:
        """The fastest that trains as one process would, or the fastest where none does."""
        usable = [each for each in self.candidates if not each.problem]
        exact = [each for each in usable if each.job.exchange.exact]
        return next(iter(exact or usable), None)

    def used(self, candidate: Candidate) -> float:
        """Part of the peak FLOP/s that the model's own operations use."""
        flops = self.model.flops(candidate.job.batch) / candidate.seconds
        bits = candidate.job.bits
        peak = sum(device.rate(bits).peak * count for device, count in self.cluster.in_use())
        return flops / peak

    def why(self, candidate: Candidate) -> str:
        """Why a candidate is not the best: what it spends more on, or what stands against it."""
        best = self.best
        if candidate.problem:
            return candidate.problem
        if best is None or best.step is None or candidate.step is None or candidate is best:
            return ""
        if not candidate.job.exchange.exact and candidate.seconds < best.seconds:
            return "faster, but what is trained differs: gradients lose something"
        more = {part: getattr(candidate.step, part) - getattr(best.step, part) for part in PARTS}
        worst = max(more, key=more.__getitem__)
        return f"{PARTS[worst]} takes {time_text(max(more[worst], 0.0))} more"


PARTS = {
    "compute": "computing",
    "tensor": "summing over tensor groups",
    "pipeline": "sending between stages",
    "bubble": "waiting for stages",
    "data": "the exchange of replicas",
    "update": "the update",
    "jitter": "waiting for the slowest host",
}
"""What the parts of `StepTime` are called."""


def plan(
    model: Model,
    cluster: Cluster,
    job: PlannedJob,
    exchanges: Sequence[ExchangeCost],
    meshes: Sequence[Degrees] | None = None,
    fitted: Fitted = FITTED,
) -> Plan:
    """Predict all meshes and exchanges of a job.

    Args:
        model: what is trained.
        cluster: on what; each device of it is a rank.
        job: how.
        exchanges: to compare.
        meshes: to compare; by default all of as many ranks as the cluster has devices.
        fitted: the numbers that no data sheet has.

    Raises:
        ValueError: a mesh has another number of ranks.

    Example:
        >>> found = plan(model, find_cluster("dgx-a100"), job, [exchange_cost("all-reduce")])
        >>> found.best.degrees
    """
    for mesh in meshes or []:
        if mesh.ranks != cluster.ranks:
            raise ValueError(
                f"{mesh} has {mesh.ranks} ranks, and the cluster {cluster.ranks} devices: let the "
                "degrees multiply to them, or plan for fewer devices."
            )
    # A mesh without replicas has nothing to exchange: one row is enough.
    found = [
        on_mesh(model, cluster, replace(job, exchange=exchange), degrees, fitted)
        for degrees in (meshes or all_meshes(cluster.ranks, model.divides))
        for exchange in (exchanges if degrees.data > 1 else exchanges[:1])
    ]
    order = sorted(found, key=lambda each: (bool(each.problem), each.seconds, each.memory))
    return Plan(model, cluster, tuple(order))


def all_meshes(ranks: int, divided: bool = True) -> list[Degrees]:
    """All meshes of so many ranks; for a model that is not divided the one of replicas."""
    if not divided:
        return [Degrees(data=ranks)]
    return [
        Degrees(ranks // tensor // pipeline, pipeline, tensor)
        for tensor in _divisors(ranks)
        for pipeline in _divisors(ranks // tensor)
    ]


def what_would_fit(
    model: Model, cluster: Cluster, job: PlannedJob, exchanges: Sequence[ExchangeCost]
) -> Candidate | None:
    """What fits where a plan has found nothing that does.

    Tried are a sharded optimizer, recomputation, both, and these on up to 8 times the devices.

    Returns:
        The fastest of the first change that is enough; None if none is.
    """
    sharded = [*exchanges, exchange_cost("sharded")]
    frugal = replace(job, recompute="full", micro_batch=None)
    for times in (1, 2, 4, 8):
        try:
            larger = cluster.with_ranks(times * cluster.ranks)
        except ValueError:  # of devices of different kinds nobody knows which are added
            return None
        for tried, among in ((job, sharded), (frugal, exchanges), (frugal, sharded)):
            best = plan(model, larger, tried, among).best
            if best is not None:
                return best
    return None


def on_mesh(
    model: Model, cluster: Cluster, job: PlannedJob, degrees: Degrees, fitted: Fitted = FITTED
) -> Candidate:
    """The fastest micro-batch and number of chunks on a mesh, of those that fit.

    Where nothing fits, what needs least.
    """
    limit = cluster.device(degrees, job.share_rows).memory
    best, smallest, problem = None, None, ""
    same: Any = model  # the protocol does not say that it can be the key of a cache
    for rows, chunks in _cuts(job, degrees, model):
        cut = replace(job, micro_batch=rows, chunks=chunks)
        if why := model.misfit(degrees, cut, rows):
            problem = problem or why
            continue
        memory = _memory(same, degrees, cut, rows)
        if smallest is None or memory < smallest.memory:
            smallest = Candidate(degrees, cut, memory)
        if memory <= limit:
            step = step_time(model, cluster, cut, degrees, rows, fitted)
            if best is None or step.total < best.seconds:
                best = Candidate(degrees, cut, memory, step)
    if best is not None:
        return best
    if smallest is not None:
        lacks = f"a rank needs {bytes_text(smallest.memory)} of {bytes_text(limit)}"
        return replace(smallest, problem=lacks)
    return Candidate(degrees, job, problem=problem)


@functools.lru_cache(maxsize=100_000)
def _memory(model: Any, degrees: Degrees, job: PlannedJob, rows: int) -> float:
    """It does not depend on what is fitted, which is tried a thousand times."""
    return float(model.memory(degrees, job, rows))


def _cuts(job: PlannedJob, degrees: Degrees, model: Model) -> Iterator[tuple[int, int]]:
    """Micro-batches and chunks to try; the job's own where it names them."""
    per_replica = max(1, job.batch // degrees.data)
    if job.micro_batch:
        sizes = [job.micro_batch]
    elif degrees.pipeline > 1 and model.micro_batches:
        sizes = [max(1, per_replica // model.micro_batches)]
    else:
        sizes = [rows for rows in _divisors(per_replica) if rows <= _MOST_MICRO_BATCHES]
        sizes += [per_replica] if per_replica not in sizes and degrees.pipeline == 1 else []
    most = max(1, model.layers // degrees.pipeline)
    if job.chunks is not None:
        chunks = [job.chunks]
    else:
        chunks = _divisors(most) if degrees.pipeline > 1 else [1]
    yield from product(sorted(sizes, reverse=True), chunks)  # the first of equals is taken


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
