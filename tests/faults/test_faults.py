"""Faults that are really injected into a training: one message, exit status not 0, all gone."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from failing_jobs import blocks, ranks_only, require_one_block, squeezed
from launch import Finished, run_ranks

from hvdkit.watch.report import numbers

SCRIPT = Path(__file__).with_name("faulty.py")
STALL_LIMIT = 5.0
GONE_SECONDS = 10.0
CLEARED_SECONDS = 2.0

ALL_LAUNCHERS = ("mpi", "horovodrun", "gloo")


@dataclass(frozen=True)
class Fault:
    """What happens to one rank, and what the job's message says.

    Attributes:
        name: the fault in faulty.py.
        said: texts of the message; "{rank}" is the rank that fails, "{others}" the others.
        traceback: how many exceptions the ranks show.
        waits: whether it is seen only after the limit.
        status: the job's exit status; None for any but 0.
    """

    name: str
    said: tuple[str, ...]
    traceback: int = 0
    waits: bool = False
    status: int | None = None


STOPPED = ("rank {rank} stopped taking part:", "rank {rank} (host", "is missing: no heartbeat for")
BUSY = ("rank {rank} stopped taking part:", "rank {rank} (host", "sum(range(1000))")
WAITED = ("{others} waited", "in training step 4 of fit (allreduce 'DistributedSGD/bucket0')")

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("exception", ("an exception on rank {rank} (host", "KeyError: 'rank {rank} f"), 1),
        Fault(
            "exception_everywhere", ("an exception on ranks 0-", "KeyError: 'all ranks fail'"), 1
        ),
        Fault("memory_error", ("an exception on rank {rank} (host", "Unable to allocate"), 1),
        Fault("kill", ("rank {rank} (host", "was ended by signal 9 (SIGKILL)")),
        Fault("segfault", ("rank {rank} (host", "was ended by signal 11 (SIGSEGV)")),
        Fault("abort", ("rank {rank} (host", "was ended by signal 6 (SIGABRT)")),
        Fault(
            "data_exception",
            (
                "an exception on rank {rank} (host",
                "KeyError: 'row 3' in Python code that TensorFlow calls",
                'return {}[f"row {step}"]',
                "asked for by:",
                "model.fit(data",
            ),
        ),
        Fault("exit", ("rank {rank} (host", "ended with exit status 3, without"), status=3),
        Fault("hard_exit", ("rank {rank} (host", "ended with exit status 4"), status=4),
        Fault(
            "raised_exit",
            ("rank {rank} (host", "ended with exit status 3, without", "raised SystemExit"),
            status=3,
        ),
        Fault(
            "interrupt",
            ("Ctrl-C (SIGINT) interrupted rank {rank} (host", "KeyboardInterrupt"),
            traceback=1,
            status=130,
        ),
        Fault("end", ("rank {rank} left while", "came to the end of its script")),
        Fault("shutdown", ("rank {rank} left while", "called hvd.shutdown()")),
        Fault("stop", (*STOPPED, *WAITED), waits=True),
        Fault("loop", (*BUSY, *WAITED), waits=True),
        Fault("data_loop", (*BUSY, "{others} waited"), waits=True),
        Fault(
            "other_collective",
            (
                "wait for each other in different collectives",
                "in broadcast",
                "DistributedSGD/bucket0",
            ),
            waits=True,
        ),
    )
}

# (launcher, ranks, fault, the rank that fails)
USUAL = (
    ("mpi", 2, "exception", 0),
    ("mpi", 2, "kill", 0),
    ("gloo", 2, "exit", 1),
)
LONG = (
    ("mpi", 2, "data_exception", 1),
    ("mpi", 3, "stop", 0),
    ("mpi", 3, "kill", 0),
    ("horovodrun", 2, "segfault", 1),
    ("gloo", 2, "interrupt", 1),
    ("gloo", 2, "raised_exit", 1),
    ("mpi", 2, "data_loop", 1),
    *(
        case
        for launcher in ALL_LAUNCHERS
        for fault in FAULTS
        for case in ((launcher, 2, fault, 0), (launcher, 3, fault, 1))
        # mpirun forwards nothing of the others that they say after one has ended with this status.
        if case not in USUAL and (fault != "raised_exit" or launcher == "gloo")
    ),
)


@pytest.mark.parametrize(
    ("launcher", "ranks", "name", "victim"),
    [*USUAL, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)],
)
def test_fault(launcher: str, ranks: int, name: str, victim: int) -> None:
    fault = FAULTS[name]
    arguments = [str(SCRIPT), name, str(victim), str(STALL_LIMIT)]
    job = run_ranks(launcher, ranks, arguments, env={"TF_CPP_MIN_LOG_LEVEL": "1"})
    ended = time.time()
    assert job.status, job.describe()
    assert fault.status in (None, job.status), job.describe()
    if name in ("data_exception", "raised_exit", "interrupt"):  # nothing of TensorFlow's around it
        assert "local_rendezvous" not in job.output, job.describe()
        assert "op_kernel" not in job.output, job.describe()
    seconds = ended - min(float(t) for t in re.findall(r"FAULT AT ([\d.]+)", job.output))
    print(f"FAULT {name} {launcher} {ranks}: gone after {seconds:.1f} s")
    others = [rank for rank in range(ranks) if rank != victim]
    named = numbers(others)
    require_one_block(
        job, *(t.replace("{rank}", str(victim)).replace("{others}", named) for t in fault.said)
    )
    shown = squeezed(job.output).count("Traceback(mostrecentcalllast)")
    assert shown == fault.traceback, job.describe()
    assert "TRAINED" not in job.output, job.describe()
    assert seconds < GONE_SECONDS + (STALL_LIMIT if fault.waits else 0), job.describe()
    require_gone(job, ranks)


@pytest.mark.long
@pytest.mark.parametrize(
    ("launcher", "ranks", "what"),
    [("mpi", 2, "pause"), ("gloo", 3, "pause"), ("gloo", 2, "nothing")],
)
def test_no_fault(launcher: str, ranks: int, what: str) -> None:
    """A declared pause that is longer than the limit, and a job in which nothing happens."""
    job = run_ranks(launcher, ranks, [str(SCRIPT), what, "1", str(STALL_LIMIT)])
    job.require_success()
    assert blocks(job.output) == [], job.describe()
    assert job.output.count("TRAINED") == ranks, job.describe()
    require_gone(job, ranks)


@pytest.mark.long
@pytest.mark.parametrize(
    ("launcher", "how"),
    [
        ("mpi", "end"),
        *(
            pytest.param(launcher, how, marks=pytest.mark.long)
            for launcher, how in (("gloo", "end"), ("mpi", "shutdown"), ("horovodrun", "shutdown"))
        ),
    ],
)
def test_the_first_that_leaves_does_not_end_the_others(launcher: str, how: str) -> None:
    job = run_ranks(launcher, 3, [str(SCRIPT.with_name("leaving.py")), how])
    job.require_success()
    assert blocks(job.output) == [], job.describe()
    assert job.output.count("LEFT LATER") == 2, job.describe()


@pytest.mark.long
def test_without_the_watch() -> None:
    """Each rank shows its own error, as without hvdkit."""
    arguments = [str(SCRIPT), "exception_everywhere", "0", str(STALL_LIMIT)]
    job = run_ranks("mpi", 2, arguments, env={"HVDKIT_WATCH": "0"})
    assert job.status, job.describe()
    assert blocks(job.output) == [], job.describe()
    assert ranks_only(job).count("KeyError: 'all ranks fail'") == 2, job.describe()


def require_gone(job: Finished, ranks: int) -> None:
    """Fail the test if a rank's process is left, once the kernel has cleared it away."""
    pids = {int(pid) for pid in re.findall(r"PID (\d+)", job.output)}
    assert len(pids) == ranks, job.describe()
    end = time.monotonic() + CLEARED_SECONDS
    while (left := [pid for pid in pids if _is_alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left, f"processes {left} are left; {job.describe()}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
