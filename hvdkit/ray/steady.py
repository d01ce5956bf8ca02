"""A job on Ray whose ranks stay: one that ends with an error ends all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from hvdkit.errors import HvdkitError
from hvdkit.jobs.keeper import Outcome
from hvdkit.jobs.outcomes import first_failure, result_of
from hvdkit.jobs.rendezvous import Rendezvous
from hvdkit.jobs.slots import slots_of
from hvdkit.ray.datasets import Blocks
from hvdkit.ray.job import Job
from hvdkit.ray.workers import hosts_of


def run_steady(ray: Any, job: Job, blocks: Mapping[str, Blocks]) -> list[Any]:
    """Run a job, and return what its function returned on each rank.

    Args:
        ray: the module, connected.
        job: what is to be run.
        blocks: its Datasets.

    Raises:
        FunctionError: a rank failed.
        HvdkitError: workers or ranks did not come in time.
    """
    with job.placed(ray, blocks) as workers, Rendezvous() as rendezvous:
        actors = [workers.start(place) for place in range(job.workers)]
        slots = slots_of(hosts_of(workers.places_of(actors)))
        driver = (ray.util.get_node_ip_address(), rendezvous.port)
        running = {
            actor.keep.remote(
                job.call, {**job.env, **slot.environment()}, driver, f"{slot.rank}"
            ): (slot)
            for actor, slot in zip(actors, slots, strict=True)
        }
        outcomes: dict[int, Outcome] = {}
        deadline = float("inf")
        while running and time.monotonic() < deadline:
            done, _ = ray.wait(list(running), timeout=0.5)
            for reference in done:
                slot = running.pop(reference)
                outcomes[slot.rank] = workers.outcome(reference, slot.host)
                if outcomes[slot.rank].failed:
                    deadline = min(deadline, time.monotonic() + rendezvous.grace(job.workers))
            late = rendezvous.missing(job.workers, job.limit)
            if late and deadline == float("inf"):
                names = {slot.rank: slot.host for slot in slots}
                raise HvdkitError(_not_in_init(late, names, job.limit))
        if (failure := first_failure(outcomes)) is not None:
            raise failure
        return [result_of(outcomes[rank]) for rank in range(job.workers)]


def _not_in_init(ranks: Sequence[int], hosts: Mapping[int, str], limit: float) -> str:
    """What is wrong where ranks wait in `hvd.init()` for others."""
    named = ", ".join(f"rank {rank} (host {hosts[rank]})" for rank in ranks)
    return (
        f"{named} did not come to hvd.init() within {limit:g} s of the first one (start_timeout). "
        "Every rank has to call it once; what the ranks printed tells where this one is."
    )
