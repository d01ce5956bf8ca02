"""Which mesh and exchange a model is trained with, where the user does not say.

The rules are few, and go from what sends least: whole replicas; replicas that share the optimizer's
variables; layers over the ranks of a host; stages. The first that fits into memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from hvdkit.graph.balance import size_text
from hvdkit.planner.transformer import Degrees


@dataclass(frozen=True)
class Needs:
    """What a training of the whole model needs on a rank, in bytes.

    Attributes:
        weights: weights, and a gradient for each that is trained.
        slots: the optimizer's variables.
        activations: what the backward pass keeps, for the rows of a rank's batch.
        divisible: the part of `weights` and `slots` that is in layers that can be sharded.
    """

    weights: float
    slots: float
    activations: float
    divisible: float

    def on(self, degrees: Degrees, sharded: bool) -> float:
        """Bytes of a rank of a mesh."""
        slots = self.slots / degrees.data if sharded else self.slots
        held = self.weights + slots
        share = 1 - self.divisible * (1 - 1 / degrees.tensor)
        return (held * share + self.activations) / degrees.pipeline


@dataclass(frozen=True)
class Job:
    """The ranks at hand.

    Attributes:
        ranks: how many there are.
        local_ranks: how many of them are on each host.
        limit: bytes that each may use.
        can_send: whether stages can send to each other, which needs MPI.
    """

    ranks: int
    local_ranks: int
    limit: float
    can_send: bool


@dataclass(frozen=True)
class Choice:
    """A mesh, and how its replicas stay together.

    Attributes:
        degrees: the mesh's sizes.
        sharded: whether each replica has the optimizer's variables of its share of the weights.
        reason: why.
    """

    degrees: Degrees
    sharded: bool
    reason: str


def choose(needs: Needs, job: Job) -> Choice:
    """The first mesh and exchange that fit, in the order of what they send.

    Args:
        needs: what the whole model needs.
        job: the ranks at hand.

    Raises:
        ValueError: nothing fits.
    """
    tried: list[str] = []
    for degrees, sharded in _candidates(job):
        size = needs.on(degrees, sharded)
        what = f"{degrees}{', slots shared' if sharded else ''}: {size_text(size)} a rank"
        if size <= job.limit:
            return Choice(degrees, sharded, _because(tried, what, job))
        tried.append(what)
    raise ValueError(
        f"the model fits on no mesh of {job.ranks} ranks, which may use "
        f"{size_text(job.limit)} each: {'; '.join(tried)}. Use more ranks, or a smaller batch or "
        "model."
    )


def _because(tried: list[str], found: str, job: Job) -> str:
    limit = f"a rank may use {size_text(job.limit)}"
    return f"{found}; {limit}" + (f"; too large: {'; '.join(tried)}" if tried else "")


def _candidates(job: Job) -> Iterator[tuple[Degrees, bool]]:
    yield Degrees(data=job.ranks), False
    if job.ranks > 1:
        yield Degrees(data=job.ranks), True
    divisors = [n for n in range(1, job.ranks + 1) if job.ranks % n == 0]
    meshes = [
        Degrees(job.ranks // (pipeline * tensor), pipeline, tensor)
        for pipeline, tensor in product(divisors, divisors)
        if job.ranks % (pipeline * tensor) == 0
        and job.local_ranks % tensor == 0
        and (pipeline == 1 or job.can_send)
        and pipeline * tensor > 1
    ]
    for degrees in sorted(meshes, key=lambda mesh: (-mesh.data, -mesh.tensor)):
        yield degrees, False
