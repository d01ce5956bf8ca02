"""Start and stop."""

from __future__ import annotations

import atexit
import ctypes
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from hvdkit import patches
from hvdkit.engine.alone import own_ranks
from hvdkit.engine.host_cores import cores_of_neighbours
from hvdkit.engine.launcher import Launch, read_launch
from hvdkit.engine.native import ProcessSet, mpi_ops
from hvdkit.engine.neighbours import missing_neighbours
from hvdkit.engine.run_settings import (
    check_settings,
    deterministic_settings,
    require_deterministic,
)
from hvdkit.engine.same_versions import require_same_versions
from hvdkit.engine.settings import (
    Setting,
    before_start,
    idle_cores_advice,
    set_gpu,
    set_threads,
    watch_limit,
)
from hvdkit.engine.several_hosts import several_hosts_settings
from hvdkit.engine.timeline import timeline_has_ended
from hvdkit.engine.topology import local_rank, local_size, rank, size
from hvdkit.errors import HvdkitError
from hvdkit.watch import startup as watching
from hvdkit.watch.causes import install as explain_data_errors
from hvdkit.watch.start_limit import start_limit

logger = logging.getLogger("hvdkit")

_LAST_WORDS_SECONDS = 1.0
_OTHERS_SPEAK_SECONDS = 5.0

# Variables that `init` has set or changed, with what they held before.
_changed_variables: dict[str, str | None] = {}


def init(
    comm: Any = None,
    process_sets: Sequence[ProcessSet] | str | None = None,
    *,
    threads: int | None = None,
    cycle_time_ms: float | None = None,
    yield_when_idle: bool | None = None,
    stall_timeout: float | None = None,
    pin_gpu: bool = True,
    consistency_check: bool | None = None,
    deterministic: bool | None = None,
    watch: bool | None = None,
) -> None:
    """Start the job: find the other ranks, and set what decides speed.

    Call it once, before anything that runs TensorFlow. A second call does nothing. What it sets
    is logged once, on rank 0, by the logger "hvdkit"; what the environment already holds stays,
    and an argument wins over the environment.

    Args:
        comm: a list of ranks of MPI's world, or an mpi4py communicator; None for all ranks.
        process_sets: process sets to register at once. `add_process_set` works in any case.
        threads: TensorFlow's threads in this rank. Default: the rank's cores (CPU affinity and
            cgroup quota), shared by the local ranks that have the same ones. The environment's
            TF_NUM_INTRAOP_THREADS or OMP_NUM_THREADS wins over the default.
        cycle_time_ms: Horovod's cycle in milliseconds (HOROVOD_CYCLE_TIME).
        yield_when_idle: whether an MPI rank that waits gives its core away
            (OMPI_MCA_mpi_yield_when_idle). Default: when the ranks fill the host's cores.
        stall_timeout: seconds after which a rank that is missing from a collective is an error
            (HVDKIT_STALL_TIMEOUT_SECONDS, or Horovod's HOROVOD_STALL_SHUTDOWN_TIME_SECONDS);
            default 300.
        pin_gpu: give each local rank one GPU, whose memory grows as it is needed.
        consistency_check: whether `fit` checks that the ranks hold the same model, see
            `hvd.callbacks.ConsistencyCheck`, and `hvd.shard` that they read the same rows
            (HVDKIT_CONSISTENCY_CHECK); default True.
        deterministic: whether two runs with the same `hvd.set_random_seed`, ranks and threads are
            equal to the bit on CPUs, which costs time (HVDKIT_DETERMINISTIC); default False.
        watch: whether the ranks watch each other, and end together with one message when one of
            them fails. Default: yes, unless the environment has HVDKIT_WATCH=0.

    Ranks that do not find each other within `stall_timeout`, or two minutes if that is less, end
    with a message.

    Raises:
        HvdkitError: the ranks could not find each other, or each found only itself (one process
            explains it, the others end with `SystemExit` and a line); they had been started over
            MPI and shut down, which MPI does not allow twice; or `deterministic=True` comes after
            the start.
        ValueError: an argument is out of range.
    """
    patches.need(patches.FIT)
    if mpi_ops.is_initialized():
        require_deterministic(deterministic)
        return
    if _mpi_was_finalized():
        raise HvdkitError(
            "hvd.init() after hvd.shutdown() does not work over MPI, which can't be started twice "
            "in a process. Leave hvd.shutdown() out; or start the job over Gloo (horovodrun "
            "--gloo); or import mpi4py.MPI before the first hvd.init(), which keeps MPI running."
        )
    launch = read_launch()
    environment = dict(os.environ)
    mpi_was_started = _mpi_was_started()
    watched = watching.wanted(watch) and not launch.is_elastic
    settings = [*check_settings(consistency_check), *deterministic_settings(deterministic)]
    settings += before_start(
        launch,
        cycle_time_ms=cycle_time_ms,
        yield_when_idle=yield_when_idle,
        stall_timeout=stall_timeout,
        # MPI can't, unless somebody else keeps it running.
        may_start_again=mpi_was_started or not launch.is_mpi,
        watched=watched,
    )
    settings += several_hosts_settings(launch, watched=watched)
    for name in {*environment, *os.environ}:
        if os.environ.get(name) != environment.get(name):
            _changed_variables.setdefault(name, environment.get(name))
    if launch.size > 1:
        # Horovod registers its own shutdown after this, so it runs before.
        atexit.unregister(_let_the_others_speak)
        atexit.register(_let_the_others_speak)
    too_late = []
    if mpi_was_started and launch.is_open_mpi:
        too_late.append("MPI's idle policy: call hvd.init() before importing mpi4py.MPI")
    with start_limit(watch_limit() if watched else math.inf, launch.size):
        try:
            mpi_ops.init(comm=comm, process_sets=process_sets)
        except ValueError as error:
            raise HvdkitError(
                f"the ranks of this job could not be started ({launch.launcher}, "
                f"{launch.size} ranks expected): {error}"
            ) from error
        if comm is None:
            _require_neighbours()
        neighbours = cores_of_neighbours()
        for some, missed in (
            set_threads(neighbours, threads),
            set_gpu(local_rank(), size()) if pin_gpu else ([], []),
        ):
            settings += some
            too_late += missed
        explain_data_errors()
        if watched and size() > 1:
            _start_watch()
        if size() > local_size() and not launch.is_elastic:
            require_same_versions()
    if rank() == 0:
        _report(launch, settings, too_late, idle_cores_advice(launch, neighbours))


def environment_before_init() -> dict[str, str]:
    """This process's environment without what `init` has set: that of a job of its own."""
    kept = {name: os.environ.get(name) for name in os.environ} | _changed_variables
    return {name: value for name, value in kept.items() if value is not None}


def _require_neighbours() -> None:
    """End the processes of a launcher whose ranks did not find each other."""
    missing = missing_neighbours(size(), local_size())
    if missing is None:
        return
    if not missing.is_error:
        if missing.is_said_here:
            logger.warning("hvdkit: %s", missing.text)
        return
    mpi_ops.shutdown()
    if missing.is_said_here:
        raise HvdkitError(missing.text)
    # The launcher may end all processes when the first has ended: leave that to the one that
    # explains it, and end with the same status.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    time.sleep(_OTHERS_SPEAK_SECONDS)
    sys.exit(f"hvdkit: {missing.text.partition(':')[0]}. The first of them says more.")


def _start_watch() -> None:
    from hvdkit.engine.objects import allgather_object, raise_everywhere  # collectives need init

    watching.start(
        rank(),
        watch_limit(),
        exchange=lambda peer: allgather_object(peer, name="hvdkit.watch"),
        agree=lambda problem: raise_everywhere(problem, HvdkitError),
        leave=mpi_ops.shutdown,
    )


def _let_the_others_speak() -> None:
    """After an error, stay until the other ranks have printed theirs.

    Horovod's shutdown has told them by now; the launcher ends them as soon as this rank is gone.
    """
    if isinstance(getattr(sys, "last_value", None), Exception):
        time.sleep(_LAST_WORDS_SECONDS)


def _mpi_was_started() -> bool:
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and bool(mpi.Is_initialized())


def _mpi_was_finalized() -> bool:
    finalized = ctypes.c_int(0)
    try:
        mpi_ops._basics.MPI_LIB_CTYPES.MPI_Finalized(ctypes.byref(finalized))
    except AttributeError:  # Horovod was built without MPI
        return False
    return bool(finalized.value)


def _report(
    launch: Launch, settings: list[Setting], too_late: list[str], advice: str | None
) -> None:
    logger.info("hvdkit: rank 0 of %d, %d on this host (%s)", size(), local_size(), launch.launcher)
    for setting in settings:
        logger.info("hvdkit: %s", setting)
    for missed in too_late:
        logger.warning("hvdkit: too late to set %s.", missed)
    if advice is not None and size() > 1:
        logger.warning("hvdkit: %s", advice)


def log_to_stderr() -> None:
    """Show hvdkit's log on stderr, unless the script has set up logging itself."""
    if logger.level == logging.NOTSET:
        logger.setLevel(os.environ.get("HVDKIT_LOG_LEVEL", "INFO").upper())
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def shutdown() -> None:
    """Leave the job, as a rank does at the end of its script.

    Horovod ends on all ranks together, so a rank that leaves waits until the others have left as
    well. If one of them waits for it in a collective instead, that one gets an error. Without the
    watch (`hvd.init(watch=False)`) nobody waits: all collectives that are under way fail.
    """
    watching.stop("called hvd.shutdown()")
    mpi_ops.shutdown()
    timeline_has_ended()


def is_initialized() -> bool:
    """Whether `init` has been called, and `shutdown` not since."""
    return bool(mpi_ops.is_initialized())


def several_ranks() -> bool:
    """Whether this process is one of several ranks that go in step; not while it is `alone`."""
    return is_initialized() and size() > 1 and own_ranks() is None
