"""Start real ranks, with a time limit, and keep what each of them printed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import forks
import seconds_spent

from hvdkit_cli.building.process import end_tree

ROOT = Path(__file__).resolve().parent.parent
LAUNCHERS = ("mpi", "gloo")


@dataclass(frozen=True)
class Finished:
    """A job that has ended.

    Attributes:
        status: exit status of the launcher; None if the time limit ended the job.
        output: what the launcher and all ranks printed.
    """

    status: int | None
    output: str

    def require_success(self) -> Finished:
        """Fail the test with the output of all ranks unless the job succeeded."""
        assert self.status == 0, self.describe()
        return self

    def describe(self) -> str:
        """The job's end and its output, for a failing test."""
        end = "ran into its time limit" if self.status is None else f"exit status {self.status}"
        return f"the job {end}; it printed:\n{self.output}"


# For jobs that run what a user runs, with the packages that are installed; but for pandas, which a
# user of Keras may well not have.
LIKE_A_USER = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/without_pandas'}"}

WITH_PANDAS = {"PYTHONPATH": str(ROOT)}

# For the ranks of Ray and Spark, which need pandas themselves.
LEAN = {"PYTHONPATH": f"{ROOT / 'tests/lean'}{os.pathsep}{ROOT / 'tests/without_pandas'}"}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a job: this interpreter's programs first, TensorFlow quiet.

    Large packages that Keras imports if it can are left out: they take a third of a job's start.
    """
    env = dict(os.environ)
    env["PATH"] = sysconfig.get_path("scripts") + os.pathsep + env.get("PATH", "")
    env["PYTHONPATH"] = os.pathsep.join(
        str(ROOT / folder)
        for folder in (".", "tests", "examples", "tests/lean", "tests/without_pandas")
    )
    env["TF_CPP_MIN_LOG_LEVEL"] = "3"
    env["PYTHONUNBUFFERED"] = "1"
    env["CUDA_VISIBLE_DEVICES"] = ""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        env["OMPI_ALLOW_RUN_AS_ROOT"] = env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    env.update(extra or {})
    return env


def launch_command(launcher: str, ranks: int, command: Sequence[str]) -> list[str]:
    """The command line that starts `command` on some ranks of this machine."""
    if launcher == "mpi":
        options = ["--oversubscribe", "--bind-to", "none", "--output", "tag"]
        if "Open MPI) 4" in _mpirun_version():
            options = ["--oversubscribe", "--bind-to", "none", "--tag-output"]
        return ["mpirun", "-np", str(ranks), *options, *command]
    if launcher == "gloo":
        return ["horovodrun", "--gloo", "-np", str(ranks), "-H", f"localhost:{ranks}", *command]
    if launcher == "horovodrun":
        return ["horovodrun", "--mpi", "-np", str(ranks), "-H", f"localhost:{ranks}", *command]
    if launcher == "python":
        return list(command)
    raise ValueError(launcher)


def _mpirun_version() -> str:
    return subprocess.run(
        ["mpirun", "--version"], env=environment(), capture_output=True, text=True, timeout=30
    ).stdout


def run_ranks(
    launcher: str,
    ranks: int,
    command: Sequence[str],
    *,
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    forked: bool = False,
) -> Finished:
    """Run a Python command on several ranks and wait for its end.

    Args:
        launcher: "mpi" (mpirun), "gloo" (horovodrun --gloo), "horovodrun" (horovodrun over MPI),
            or "python" for one process.
        ranks: number of ranks.
        command: arguments of the interpreter.
        timeout: seconds until the job is killed.
        env: more variables of the environment.
        cwd: folder to run in.
        forked: whether the ranks begin with TensorFlow and Keras imported, which saves seconds.
            Not for jobs whose processes fail, nor for those of another installation.
    """
    python = forks.interpreter(environment(env)) if forked else [sys.executable]
    argv = launch_command(launcher, ranks, [*python, *command])
    return run_command(argv, timeout=timeout, env=env, cwd=cwd)


def run_elastic(
    ranks: int,
    hosts: Path,
    command: Sequence[str],
    *,
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run a Python command as an elastic job of one rank or more and wait for its end.

    Args:
        ranks: number of ranks to start with.
        hosts: a file with the hosts, "name:slots" a line; it may change while the job runs.
        command: arguments of the interpreter.
        timeout: seconds until the job is killed.
        env: more variables of the environment.
    """
    script = f"{ROOT / 'mpi/discover-hosts.sh'} {hosts}"
    counts = ["-np", str(ranks), "--min-np", "1", "--max-np", "4", "--elastic-timeout", "60"]
    launcher = ["horovodrun", "--gloo", *counts, "--host-discovery-script", script]
    return run_command([*launcher, sys.executable, *command], timeout=timeout, env=env)


def run_command(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """Run a command in a session of its own and wait for its end; see `run_ranks`."""
    # A file, not a pipe: a process that outlives its launcher can't keep the test waiting.
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        started = time.monotonic()
        process = start_command(argv, printed, env, cwd)
        status = _wait(process, timeout)
        seconds_spent.job_ended(argv, time.monotonic() - started)
        printed.seek(0)
        return Finished(status, printed.read())


def start_command(
    argv: Sequence[str],
    printed: IO[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; it prints into a file."""
    return subprocess.Popen(
        argv,
        env=environment(env),
        cwd=cwd or ROOT,
        stdout=printed,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_job(process: subprocess.Popen[bytes]) -> None:
    """End a job and all its processes, however they are."""
    if process.poll() is None:
        end_tree(process.pid)
        process.wait()


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """The job's exit status; None if it had to be ended."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        end_job(process)
        return None
