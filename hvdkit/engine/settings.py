"""What decides speed and is wrong by default, set before TensorFlow and MPI start.

Every setting is a variable of the environment that MPI or Horovod reads, or a call to
TensorFlow; what the user has set stays. `init` logs each one, once, on rank 0.
"""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from dataclasses import dataclass

import tensorflow as tf

from hvdkit.engine.cores import affinity, cgroup_quota, threads_per_rank
from hvdkit.engine.launcher import Launch

# Shorter than any cycle of several ranks: Horovod goes on without a sleep, which would double the
# time of a small collective. Where ranks outnumber cores, a sleep leaves the core to the others;
# and a rank that has nobody to wait for would do nothing else.
CYCLE_TIME_MS = 0.001
SLEEPING_CYCLE_TIME_MS = 0.1
FUSION_BYTES = 4 * 2**20
STALL_TIMEOUT_SECONDS = 300.0
REJOIN_TIMEOUT_SECONDS = 120

WATCH_LIMIT = "HVDKIT_STALL_TIMEOUT_SECONDS"

_HOROVODS_LIMIT = "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"
_THREAD_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Setting:
    """One thing that `init` decided.

    Attributes:
        name: what was set.
        value: to what.
        reason: why, in a few words.
    """

    name: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value} ({self.reason})"


def set_variable(
    name: str,
    value: str,
    reason: str,
    *,
    given: bool,
    environ: MutableMapping[str, str] = os.environ,
) -> Setting:
    """Set a variable of the environment, unless it is set and no argument was `given`."""
    if not given and name in environ:
        return Setting(name, environ[name], "from the environment")
    environ[name] = value
    return Setting(name, value, "from the argument" if given else reason)


def before_start(
    launch: Launch,
    *,
    cycle_time_ms: float | None,
    yield_when_idle: bool | None,
    stall_timeout: float | None,
    may_start_again: bool,
    watched: bool,
) -> list[Setting]:
    """Set what MPI and Horovod read when they start.

    Args:
        launch: how the job was launched.
        cycle_time_ms: Horovod's cycle, in ms; None for the default.
        yield_when_idle: whether a waiting MPI rank gives its core away; None to decide by cores.
        stall_timeout: seconds after which a rank missing from a collective is an error.
        may_start_again: whether Horovod can be started more than once in this process.
        watched: whether hvdkit's own watch looks for missing ranks, and not Horovod.
    """
    settings = [
        *_cycle_and_fusion_settings(
            cycle_time_ms,
            _default_cycle_time_ms(launch),
            may_start_again=may_start_again,
        ),
        _watch_settings(stall_timeout) if watched else _stall_settings(stall_timeout),
    ]
    # So that hvd.Mesh and hvd.add_process_set work in every job. What it costs, hvdkit's build of
    # Horovod mends (horovod_repairs.h).
    os.environ.setdefault("HOROVOD_DYNAMIC_PROCESS_SETS", "1")
    if launch.is_elastic:
        settings.append(
            set_variable(
                "HOROVOD_GLOO_TIMEOUT_SECONDS",
                str(REJOIN_TIMEOUT_SECONDS),
                "s; the others wait so long for a rank that joins to start TensorFlow",
                given=False,
            )
        )
    if launch.is_open_mpi:
        crowded = launch.local_size >= len(affinity()) or launch.local_size >= _host_cores()
        wanted = crowded if yield_when_idle is None else yield_when_idle
        settings.append(
            set_variable(
                "OMPI_MCA_mpi_yield_when_idle",
                "1" if wanted else "0",
                "ranks and their threads fill the cores" if wanted else "cores are free",
                given=yield_when_idle is not None,
            )
        )
    return settings


def _default_cycle_time_ms(launch: Launch) -> float:
    sleeps = launch.size == 1 or launch.local_size > _host_cores()
    return SLEEPING_CYCLE_TIME_MS if sleeps else CYCLE_TIME_MS


def _cycle_and_fusion_settings(
    cycle_time_ms: float | None, default_ms: float, *, may_start_again: bool
) -> list[Setting]:
    """Horovod's cycle, and the size of its buffer.

    When Horovod 0.28.1 starts again in a process, it writes behind the end of a vector if both
    came from the environment (ParameterManager::BayesianParameter), so there one is left alone.
    """
    if may_start_again and "HOROVOD_FUSION_THRESHOLD" in os.environ:
        os.environ.pop("HOROVOD_CYCLE_TIME", None)
        reason = "ms; can't be set beside HOROVOD_FUSION_THRESHOLD where Horovod may start again"
        return [Setting("HOROVOD_CYCLE_TIME", "1", reason)]
    cycle = set_variable(
        "HOROVOD_CYCLE_TIME",
        str(default_ms if cycle_time_ms is None else cycle_time_ms),
        "ms; Horovod's own 1 ms delays every small collective",
        given=cycle_time_ms is not None,
    )
    if may_start_again or tf.config.list_physical_devices("GPU"):
        return [cycle]
    reason = "bytes; in memory, copies into one buffer cost more than a second allreduce"
    fusion = set_variable("HOROVOD_FUSION_THRESHOLD", str(FUSION_BYTES), reason, given=False)
    return [cycle, fusion]


def _watch_settings(stall_timeout: float | None) -> Setting:
    given = stall_timeout is not None
    seconds = os.environ.get(_HOROVODS_LIMIT, str(STALL_TIMEOUT_SECONDS))
    limit = set_variable(
        WATCH_LIMIT,
        str(_positive(stall_timeout)) if stall_timeout is not None else seconds,
        "s; a rank missing from a collective for longer is an error",
        given=given,
    )
    # Horovod knows of no declared pauses, and names no ranks in its error.
    os.environ[_HOROVODS_LIMIT] = "0"
    return limit


def _stall_settings(stall_timeout: float | None) -> Setting:
    given = stall_timeout is not None
    seconds = _positive(STALL_TIMEOUT_SECONDS if stall_timeout is None else stall_timeout)
    shutdown = set_variable(
        _HOROVODS_LIMIT,
        str(max(1, round(seconds))),
        "s; a rank missing from a collective for longer is an error",
        given=given,
    )
    # Horovod looks and warns in this interval, so it stops up to three of them later (an
    # operation that it has cached is looked for anew). 0 in the environment turns stopping off.
    limit = float(shutdown.value)
    if limit > 0:
        interval = max(1, round(min(30.0, limit / 5)))
        set_variable("HOROVOD_STALL_CHECK_TIME_SECONDS", str(interval), "", given=given)
    return shutdown


def watch_limit() -> float:
    """Seconds that ranks may wait for another one; 0 in the environment stands for no limit."""
    return float(os.environ[WATCH_LIMIT]) or math.inf


def _positive(stall_timeout: float) -> float:
    if stall_timeout <= 0:
        raise ValueError(f"stall_timeout is a number of seconds above 0, not {stall_timeout}.")
    return stall_timeout


def _host_cores() -> int:
    cores = os.cpu_count() or 1
    quota = cgroup_quota()
    return cores if quota is None else max(1, int(quota))


def set_threads(
    neighbours: list[frozenset[int]], threads: int | None
) -> tuple[list[Setting], list[str]]:
    """Set TensorFlow's threads.

    Args:
        neighbours: the cores of each rank on this host, this one included.
        threads: the user's number; None to share the cores.

    Returns:
        What was set, and what could not be set any more, in words.
    """
    own = affinity()
    if threads is not None and threads <= 0:
        raise ValueError(f"threads is a number above 0, not {threads}.")
    if threads is None:
        for variable in _THREAD_VARIABLES:
            if variable in os.environ:
                return [Setting(variable, os.environ[variable], "from the environment")], []
        if tf.config.threading.get_intra_op_parallelism_threads():
            count = tf.config.threading.get_intra_op_parallelism_threads()
            return [Setting("TensorFlow threads", str(count), "set by the script")], []
        count = threads_per_rank(own, neighbours, cgroup_quota())
        reason = f"{len(own)} cores for {len(neighbours)} local ranks"
    else:
        count, reason = threads, "from the argument"
    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        # One more thread starts reductions while the other runs the backward pass; a single one
        # would start them all at its end.
        tf.config.threading.set_inter_op_parallelism_threads(max(2, count))
    except RuntimeError:
        return [], [
            f"TensorFlow's threads ({count} per rank): call hvd.init() before anything "
            "that runs TensorFlow"
        ]
    return [Setting("TensorFlow threads", str(count), reason)], []


def set_gpu(local_rank: int, size: int) -> tuple[list[Setting], list[str]]:
    """Give this rank one GPU, whose memory grows as it is needed.

    A single process keeps all GPUs, for `tf.distribute.MirroredStrategy`.

    Returns:
        What was set, and what could not be set any more, in words.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return [], []
    mine = gpus if size == 1 else [gpus[local_rank % len(gpus)]]
    try:
        for gpu in mine:
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.set_visible_devices(mine, "GPU")
    except RuntimeError:
        return [], ["one GPU per rank: call hvd.init() before anything that runs TensorFlow"]
    names = ", ".join(gpu.name for gpu in mine)
    settings = [Setting("GPU", names, "one per local rank, memory grows")]
    if size > 1 and local_rank >= len(gpus):
        settings.append(
            Setting("GPU", "shared", f"more local ranks than the {len(gpus)} GPUs of this host")
        )
    return settings, []


def idle_cores_advice(launch: Launch, neighbours: list[frozenset[int]]) -> str | None:
    """What to tell the user when the launcher's binding leaves cores of this host idle."""
    bound = frozenset().union(*neighbours)
    cores = _host_cores()
    if len(bound) >= cores or not launch.is_open_mpi:
        return None
    each = max(1, cores // len(neighbours))
    return (
        f"mpirun bound the {len(neighbours)} ranks of this host to {len(bound)} of its {cores} "
        f"cores; to use them all add --map-by slot:PE={each} (or --bind-to none) to mpirun."
    )
