"""Start jobs of several ranks for a benchmark."""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hvdkit_cli.building.process import end_tree
from hvdkit_cli.run.script import end_with_parent

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_LONGEST_STEP = 120
# TensorFlow counts what it allocates on a CPU with oneDNN only, which it uses by itself on some.
COUNTED = {"TF_ENABLE_ONEDNN_OPTS": "1"}
LAUNCHERS = {
    "mpi": ["mpirun", "--oversubscribe", "--bind-to", "none", "-np"],
    "gloo": ["horovodrun", "--gloo", "-np"],
}


def environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """The variables of a job."""
    env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", HVDKIT_LOG_LEVEL="WARNING")
    env["PATH"] = sysconfig.get_path("scripts") + os.pathsep + env["PATH"]
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE)])
    if os.geteuid() == 0:
        env["OMPI_ALLOW_RUN_AS_ROOT"] = env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    return env | dict(extra or {})


def command(launcher: str, ranks: int, arguments: list[str]) -> list[str]:
    """What starts a worker on several ranks."""
    worker = [sys.executable, str(HERE / arguments[0]), *arguments[1:]]
    return [*LAUNCHERS[launcher], str(ranks), *worker]


def run_job(
    launcher: str,
    ranks: int,
    arguments: list[str],
    marker: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> list[dict[str, Any]]:
    """Run a worker on several ranks, to its end.

    Args:
        launcher: "mpi" or "gloo".
        ranks: number of ranks.
        arguments: the worker's file in this folder, and its arguments.
        marker: the word before each JSON object that a rank prints.
        env: more variables of the environment.
        timeout: seconds until the job is ended.

    Returns:
        The objects that the ranks printed.

    Raises:
        RuntimeError: the job failed, and the message holds its output; or its time was up.
    """
    asked = command(launcher, ranks, arguments)
    process = started(asked, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        printed, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(asked)} took longer than {timeout:g} s") from error
    finally:
        if process.poll() is None:
            end_tree(process.pid)
    found = [
        json.loads(line.split(marker, 1)[1])
        for line in printed.splitlines()
        if f"{marker} {{" in line
    ]
    if process.returncode or not found:
        raise RuntimeError(f"{' '.join(asked)} failed:\n{printed}\n{errors}")
    return found


def started(
    command: list[str], env: Mapping[str, str] | None, stdout: Any, stderr: Any
) -> subprocess.Popen[str]:
    """Start a launcher that does not outlive this benchmark, however that ends."""
    # `timeout` ends a benchmark by it: an exception, so that what starts jobs ends them, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return subprocess.Popen(
        command,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=lambda: end_with_parent(signal.SIGTERM),
    )


class Job:
    """A job in the background.

    Args:
        launcher: "mpi" or "gloo".
        ranks: number of ranks.
        arguments: the worker's file in this folder, and its arguments.
        env: more variables of the environment.
    """

    def __init__(
        self,
        launcher: str,
        ranks: int,
        arguments: list[str],
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._printed = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (until stop)
        self._process = started(
            command(launcher, ranks, arguments), env, self._printed, subprocess.STDOUT
        )

    def ended(self) -> bool:
        """Whether the launcher has ended."""
        return self._process.poll() is not None

    def output(self) -> str:
        """What the job has printed."""
        self._printed.seek(0)
        return self._printed.read()

    def wait(self, timeout: float) -> int | None:
        """Wait for the end; the launcher's exit status, or None after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End all processes of the job."""
        if not self.ended():
            end_tree(self._process.pid)
        self._printed.close()


class PausableJob(Job):
    """A job that trains until it is stopped, and that runs only while it is asked to.

    The worker gets a folder as its last argument, and calls `StepLog` (step_log.py) for each step.
    Pausing stops the ranks' processes with all their threads, so another job has the machine to
    itself.
    """

    def __init__(
        self,
        launcher: str,
        ranks: int,
        arguments: list[str],
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._ranks = ranks
        self._pids: list[int] = []
        super().__init__(launcher, ranks, [*arguments, self._folder.name], env)

    def wait_until_warm(self, timeout: float = 180) -> None:
        """Wait until every rank is past its warm-up, and pause.

        Raises:
            RuntimeError: the job ended, or is not warm after `timeout` seconds.
        """
        files = [Path(self._folder.name, f"{rank}.pid") for rank in range(self._ranks)]
        deadline = time.monotonic() + timeout
        while not all(file.exists() for file in files):
            if self.ended() or time.monotonic() > deadline:
                raise RuntimeError(f"the job did not start:\n{self.output()}")
            time.sleep(0.1)
        self._pids = [int(file.read_text()) for file in files]
        self._send(signal.SIGSTOP)

    def run_for(self, seconds: float) -> list[list[float]]:
        """Let the job run, and pause it again.

        Args:
            seconds: how long; it runs on until each rank has made a whole step.

        Returns:
            For each rank the seconds of each step that lay in this time as a whole.

        Raises:
            RuntimeError: the job ended, or a step takes minutes.
        """
        self._send(signal.SIGCONT)
        begin = time.monotonic()
        time.sleep(seconds)
        while True:
            end = time.monotonic()
            steps = [self._steps(rank, begin, end) for rank in range(self._ranks)]
            if all(steps):
                break
            if self.ended() or end - begin > seconds + _LONGEST_STEP:
                raise RuntimeError(f"a job makes no steps:\n{self.output()}")
            time.sleep(0.1)
        self._send(signal.SIGSTOP)
        return steps

    def stop(self) -> None:
        """End all processes of the job."""
        if not self.ended():
            self._send(signal.SIGCONT)
        super().stop()
        self._folder.cleanup()

    def _send(self, kind: signal.Signals) -> None:
        for pid in self._pids:
            os.kill(pid, kind)

    def _steps(self, rank: int, begin: float, end: float) -> list[float]:
        stamps = array("d")
        stamps.frombytes(Path(self._folder.name, f"{rank}.steps").read_bytes())
        inside = [stamp for stamp in stamps if begin <= stamp <= end]
        return [b - a for a, b in itertools.pairwise(inside)]


class CountedJob(PausableJob):
    """A pausable job, and the bytes that it sends in a step.

    Args:
        launcher: see `PausableJob`.
        ranks: see `PausableJob`.
        arguments: see `PausableJob`.
        counter: tells how many bytes have been sent so far, by whomever.
        sent: gets the bytes of a step, once for each turn.
    """

    def __init__(
        self,
        launcher: str,
        ranks: int,
        arguments: list[str],
        counter: Callable[[], int],
        sent: list[float],
    ) -> None:
        super().__init__(launcher, ranks, arguments)
        self._counter = counter
        self._sent = sent

    def run_for(self, seconds: float) -> list[list[float]]:
        """See `PausableJob.run_for`."""
        before, begin = self._counter(), time.monotonic()
        steps = super().run_for(seconds)
        in_steps = (time.monotonic() - begin) / statistics.median(steps[0])
        self._sent.append((self._counter() - before) / in_steps)
        return steps


def step_times_in_turn(
    starts: Mapping[str, Callable[[], PausableJob]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Start and warm up all jobs, and let them run in turn, each while the others are paused.

    Args:
        starts: what starts a job, by name.
        rounds: turns of each job.
        seconds: length of a turn.

    Returns:
        For each job the ms per step of each turn: the median of its steps on the slowest rank.
    """
    times: dict[str, list[float]] = {name: [] for name in starts}
    jobs: dict[str, PausableJob] = {}
    try:
        for name, start in starts.items():
            jobs[name] = start()
            jobs[name].wait_until_warm()
        for number in range(rounds):
            # Who comes first in a round is a little faster, so the order changes.
            for name, job in list(jobs.items())[:: -1 if number % 2 else 1]:
                steps = job.run_for(seconds)
                times[name].append(1000 * max(statistics.median(rank) for rank in steps))
    finally:
        for job in jobs.values():
            job.stop()
    return times
