"""A real Slurm with two nodes on this machine; see box.sh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from launch import ROOT, environment

NODES = ("n1", "n2")
_BOX = Path(__file__).with_name("box.sh")
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare", "nsenter")
_CALL_SECONDS = 120
_SPACES = ("--mount", "--net", "--uts", "--ipc", "--pid")


def missing() -> str | None:
    """Why this machine can't have a Slurm of its own; None where it can."""
    if os.geteuid() != 0:
        return "only root can make hosts of namespaces"
    path = environment()["PATH"] + ":/usr/sbin:/sbin"
    absent = [program for program in _PROGRAMS if shutil.which(program, path=path) is None]
    return f"{', '.join(absent)}: not installed (see tests/system_packages.txt)" if absent else None


class SlurmBox:
    """What a user of the cluster does, on the host that is for users.

    Args:
        pid: the process whose namespaces are the cluster's.
        folder: where jobs are submitted, and their logs are.
    """

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid = pid
        self.folder = folder
        (folder / "mpi").symlink_to(ROOT / "mpi")

    def call(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command that has to succeed; what it printed."""
        done = self.run(*command, env=env)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def run(
        self, *command: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host that is for users."""
        return subprocess.run(
            ["nsenter", f"--target={self._pid}", *_SPACES, f"--wd={self.folder}", *command],
            env=environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CALL_SECONDS,
            check=False,
        )

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Wait until no job is left."""
        end = time.monotonic() + seconds
        while left := self.call("squeue", "--noheader"):
            assert time.monotonic() < end, left
            time.sleep(0.1)

    def submit(
        self,
        script: str,
        *command: str,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Job:
        """Submit a job script as `sbatch OPTIONS SCRIPT COMMAND` does; "" with --wrap."""
        words = [*options, *([script] if script else []), *command]
        printed = self.call("sbatch", "--parsable", *words, env=env)
        return Job(self, printed.split(";")[0])


class Job:
    """A job that was submitted.

    Args:
        box: where.
        number: what Slurm calls it.
    """

    def __init__(self, box: SlurmBox, number: str) -> None:
        self._box = box
        self.number = number

    def show(self) -> dict[str, str]:
        """What Slurm knows of it, such as JobState and ExitCode."""
        shown = self._box.call("scontrol", "--oneliner", "show", "job", self.number)
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def printed(self) -> str:
        """All that it has printed so far."""
        logs = self._box.folder.glob(f"*-{self.number}.log")
        return "".join(log.read_text(errors="replace") for log in logs)

    def wait_for(self, text: str, times: int = 1, seconds: float = 120) -> None:
        """Wait until it has printed a text so many times."""
        self._wait(lambda: self.printed().count(text) >= times, f"{text!r}", seconds)

    def wait_for_state(self, *states: str, seconds: float = 120) -> dict[str, str]:
        """Wait until it is in one of some states; what Slurm knows of it then."""
        self._wait(lambda: self.show()["JobState"] in states, " or ".join(states), seconds)
        return self.show()

    def _wait(self, there: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, f"no {what} in {seconds} s: {self.describe()}"
            time.sleep(0.1)

    def describe(self) -> str:
        """The job's state and what it printed, for a failing test."""
        show = self.show()
        known = {key: show.get(key) for key in ("JobState", "Reason", "ExitCode", "NodeList")}
        return f"job {self.number}: {known}; it printed:\n{self.printed()}"


@contextmanager
def slurm_box(folder: Path) -> Iterator[SlurmBox]:
    """A cluster that is there while the block runs; it ends with this process at the latest.

    Args:
        folder: see `SlurmBox`.
    """
    log = folder / "box.log"
    with log.open("w") as errors:
        box = subprocess.Popen(
            ["unshare", *_SPACES, "--fork", "--kill-child", "--mount-proc", str(_BOX)],
            env=environment({"PATH": environment()["PATH"] + ":/usr/sbin:/sbin"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert box.stdout is not None
        assert box.stdout.readline() == "ready\n", log.read_text()
        [inside] = psutil.Process(box.pid).children()
        yield SlurmBox(inside.pid, folder)
    finally:
        box.kill()
        box.communicate()
