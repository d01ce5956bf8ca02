"""Which mesh and exchange a model is trained with, where the user does not say: the planner's best.

It is the planner of `hvdkit plan`: all meshes of the job's ranks are compared by the predicted time
of a step, those that the model can't take or that do not fit into memory left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hvdkit.exchange.base import Exchange
from hvdkit.exchange.sharded.exchange import Sharded
from hvdkit.planner.cluster import Cluster
from hvdkit.planner.exchange_costs import EXCHANGES, ExchangeCost
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.layered import LayeredModel
from hvdkit.planner.search import Candidate, Plan, plan
from hvdkit.planner.transformer import Degrees
from hvdkit.planner.units import bytes_text, time_text

_MOST_OTHERS = 8


@dataclass(frozen=True)
class Choice:
    """A mesh, and how its replicas stay together.

    Attributes:
        degrees: the mesh's sizes.
        exchange: name of the exchange in the planner.
        micro_batches: of a pipeline; None without one.
        reason: why this mesh.
        others: the other meshes and exchanges, and why they are not it.
    """

    degrees: Degrees
    exchange: str = "all-reduce"
    micro_batches: int | None = None
    reason: str = "as given"
    others: dict[str, str] = field(default_factory=dict)


def choose(
    model: LayeredModel, cluster: Cluster, job: PlannedJob, exchanges: Sequence[ExchangeCost]
) -> Choice:
    """The fastest mesh and exchange by the planner.

    Args:
        model: what its blocks are, and over which meshes it divides.
        cluster: on what; each device of it is a rank.
        job: how it is trained.
        exchanges: to compare.

    Raises:
        ValueError: nothing can be used; it says why of each mesh.
    """
    found = plan(model, cluster, job, exchanges)
    best = found.best
    if best is None:
        tried = "; ".join(
            f"{_named(each)}: {each.problem.rstrip('.')}" for each in found.candidates[:6]
        )
        raise ValueError(
            f"model {model.name!r} fits on no mesh of {cluster.ranks} ranks with batches of "
            f"{job.batch} rows: {tried}. Use more ranks, or a smaller batch_size= or model."
        )
    count = job.batch // best.degrees.data // (best.job.micro_batch or 1)
    memory = min(device.memory for device, _ in cluster.in_use())
    return Choice(
        best.degrees,
        best.job.exchange.name,
        count if best.degrees.pipeline > 1 else None,
        f"planned for {cluster.name}, {job.batch} rows a step: {time_text(best.seconds)}, "
        f"{bytes_text(best.memory)} of a rank's {bytes_text(memory)}",
        _others(found, best),
    )


def exchanges_for(given: Exchange | None) -> list[ExchangeCost]:
    """What to compare: what was given, counted as the nearest that the planner knows."""
    if given is None:
        return [EXCHANGES["all-reduce"], EXCHANGES["sharded"]]
    return [EXCHANGES["sharded" if isinstance(given, Sharded) else "all-reduce"]]


def _others(found: Plan, best: Candidate) -> dict[str, str]:
    """Why each other candidate is not the best, the fastest first."""
    others = [each for each in found.candidates if each is not best]
    shown = {_named(each): _why(found, each) for each in others[:_MOST_OTHERS]}
    if left := len(others) - len(shown):
        shown[f"{left} more"] = "slower, or can't be used"
    return shown


def _why(found: Plan, each: Candidate) -> str:
    if each.problem:
        return each.problem
    return f"{time_text(each.seconds)} a step: {found.why(each)}"


def _named(each: Candidate) -> str:
    exchange = f", {each.job.exchange.name}" if each.degrees.data > 1 else ""
    return f"{each.degrees}{exchange}"
