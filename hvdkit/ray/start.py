"""hvdkit.ray.run: call a function on ranks that Ray places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import cloudpickle

from hvdkit.ray.datasets import computed
from hvdkit.ray.elastic import run_elastic
from hvdkit.ray.installed import connected_ray
from hvdkit.ray.job import Job
from hvdkit.ray.steady import run_steady


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
        ...     start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
        ...     model.fit(rows, epochs=epochs, callbacks=[start])
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
    blocks = computed(datasets or {})
    if min_workers is not None:
        return run_elastic(ray, job, blocks, min_workers, max_failures)
    results = run_steady(ray, job, blocks)
    return results if all_results else results[0]
