"""hvdkit.ray.run: call a function on ranks that Ray places."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cloudpickle

from hvdkit.errors import HvdkitError
from hvdkit.jobs.keeper import Outcome
from hvdkit.jobs.outcomes import first_failure, result_of
from hvdkit.jobs.rendezvous import Rendezvous
from hvdkit.jobs.slots import slots_of
from hvdkit.ray.datasets import Blocks, computed
from hvdkit.ray.installed import connected_ray
from hvdkit.ray.workers import Workers, hosts_of

_OTHERS_SECONDS = 10.0  # what the watch takes to end the ranks together


@dataclass(frozen=True)
class Job:
    """What is to be run.

    Attributes:
        call: the pickled function with its arguments.
        workers: how many ranks there are.
        resources: what each needs.
        strategy: how they are spread over nodes.
        limit: seconds that workers may take to come.
        env: variables of their environment.
    """

    call: bytes
    workers: int
    resources: dict[str, float]
    strategy: str
    limit: float
    env: dict[str, str]

    def placed(self, ray: Any, blocks: Mapping[str, Blocks]) -> Workers:
        """Its actors; a context manager."""
        return Workers(ray, self.workers, self.resources, self.strategy, blocks, self.limit)


def run(
    train: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    num_workers: int = 2,
    *,
    cpus_per_worker: float = 1,
    gpus_per_worker: float = 0,
    resources_per_worker: Mapping[str, float] | None = None,
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK",
    datasets: Mapping[str, Any] | None = None,
    min_workers: int | None = None,
    max_failures: int = 3,
    start_timeout: float = 120,
    env: Mapping[str, str] | None = None,
    all_results: bool = False,
) -> Any:
    """Call a function on ranks of a Ray cluster, and return what it returned on rank 0.

    A placement group reserves what the workers need, an actor in it looks after each rank, and the
    rank is a process of its own beside the actor, in which the function calls `hvd.init()`, as a
    script does. The ranks talk over Gloo (tensors on GPUs over NCCL, where Horovod has it). The
    calling process loads neither TensorFlow nor Horovod. Actors and placement group are gone when
    this returns.

    Args:
        train: the function. Those of a script or notebook, and lambdas, are sent as they are, with
            the variables that they use; others are imported by the ranks.
        args: its positional arguments.
        kwargs: its keyword arguments.
        num_workers: number of ranks.
        cpus_per_worker: CPUs of each rank; TensorFlow uses as many threads.
        gpus_per_worker: GPUs of each rank.
        resources_per_worker: other resources of Ray's, by name.
        strategy: how Ray spreads the ranks over nodes: close together, or apart.
        datasets: Ray Datasets by name, from which ranks take their rows with
            `hvdkit.ray.get_shard(name, ...)`. They are computed before the ranks start, into Ray's
            object store.
        min_workers: makes the job elastic: when workers die, the others go on, as long as they are
            so many, and a new one takes the place of each that has died. The function trains
            with `hvd.elastic.run`. Default: a rank that dies is an error.
        max_failures: how many workers of an elastic job may die; one more is an error.
        start_timeout: seconds that the resources, each worker, and each rank's `hvd.init()` may
            take to come, once others are there.
        env: variables of the ranks' environment, added to those of Ray's workers.
        all_results: return the results of all ranks, as a list in their order.

    Returns:
        What the function returned on rank 0.

    Raises:
        FunctionError: the function raised an error on a rank, or a rank ended without a result.
        InstallationError: Ray is missing, or its version does not fit.
        HvdkitError: Ray has no room for the workers, or one did not come in time; it is named.
        TypeError: `datasets` holds something else.
        ValueError: an argument is out of range.

    Example:
        >>> def train(epochs):
        ...     hvd.init()
        ...     model = build()
        ...     rows = hvd.ray.get_shard(x="image", y="label", batch_size=32)
        ...     model.fit(rows, epochs=epochs, verbose=2 if hvd.rank() == 0 else 0)
        ...     return model.get_weights()
        >>> dataset = ray.data.read_parquet("s3://bucket/train")
        >>> weights = hvd.ray.run(train, args=(3,), num_workers=4, datasets={"train": dataset})
    """
    least = num_workers if min_workers is None else min_workers
    if num_workers < 1 or not 1 <= least <= num_workers:
        raise ValueError(
            f"num_workers is at least 1, and min_workers from 1 to num_workers, not {num_workers} "
            f"and {min_workers}."
        )
    if cpus_per_worker <= 0 or gpus_per_worker < 0 or start_timeout <= 0 or max_failures < 0:
        raise ValueError(
            "cpus_per_worker and start_timeout are above 0, gpus_per_worker and max_failures are "
            f"not below 0: got {cpus_per_worker}, {start_timeout}, {gpus_per_worker}, "
            f"{max_failures}."
        )
    if min_workers is not None and all_results:
        raise ValueError("all_results is not for elastic jobs: they have the result of rank 0.")
    ray = connected_ray()
    resources = {"CPU": cpus_per_worker, "GPU": gpus_per_worker, **(resources_per_worker or {})}
    call = cloudpickle.dumps((train, tuple(args), dict(kwargs or {})))
    environment = {"PYTHONUNBUFFERED": "1", **(env or {}), "HVDKIT_STARTED_BY": "ray"}
    job = Job(call, num_workers, resources, strategy, start_timeout, environment)
    blocks, kept = computed(datasets or {})
    try:
        if min_workers is not None:
            from hvdkit.ray.elastic import run_elastic

            return run_elastic(ray, job, blocks, min_workers, max_failures)
        results = _run(ray, job, blocks)
    finally:
        kept.clear()
    return results if all_results else results[0]


def _run(ray: Any, job: Job, blocks: Mapping[str, Blocks]) -> list[Any]:
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
                    deadline = min(deadline, time.monotonic() + _OTHERS_SECONDS)
            late = rendezvous.missing(job.workers, job.limit)
            if late and deadline == float("inf"):
                names = {slot.rank: slot.host for slot in slots}
                raise HvdkitError(not_in_init(late, names, job.limit))
        if (failure := first_failure(outcomes)) is not None:
            raise failure
        return [result_of(outcomes[rank]) for rank in range(job.workers)]


def not_in_init(ranks: Sequence[int], hosts: Mapping[int, str], limit: float) -> str:
    """What is wrong where ranks wait in `hvd.init()` for others."""
    named = ", ".join(f"rank {rank} (host {hosts[rank]})" for rank in ranks)
    return (
        f"{named} did not come to hvd.init() within {limit:g} s of the first one (start_timeout). "
        "Every rank has to call it once; what the ranks printed tells where this one is."
    )
