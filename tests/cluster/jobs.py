"""Jobs over several hosts, as a user on the first of them starts them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hosts import Host
from launch import ROOT, Finished, end_job

HERE = Path(__file__).parent
TRAINING = HERE / "training.py"
WRAPPER = ROOT / "mpi" / "hvdkit-mpirun.sh"
_START_SECONDS = 90.0
_CLEARED_SECONDS = 15.0
_PASSED = ("PATH", "PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES", "PYTHONUNBUFFERED")


def mpirun(slots: str, *options: str) -> list[str]:
    """mpirun with hosts and slots such as "h1:1,h2:1"."""
    ranks = sum(int(part.split(":")[1]) for part in slots.split(","))
    passed = [part for name in _PASSED for part in ("-x", name)]
    return ["mpirun", "-np", str(ranks), "-H", slots, "--bind-to", "none", *passed, *options]


class Job:
    """A job that runs.

    Args:
        hosts: all hosts; a user on the first one starts it.
        printed: what its launcher prints goes there.
    """

    def __init__(
        self, hosts: Sequence[Host], command: Sequence[str], printed: Path, env: Mapping[str, str]
    ) -> None:
        self._hosts = hosts
        self._printed = printed
        with printed.open("w") as file:
            self._process = hosts[0].start(*command, printed=file, env=env)

    @property
    def output(self) -> str:
        """What has been printed so far."""
        return self._printed.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether the launcher has not ended."""
        return self._process.poll() is None

    def wait_for(self, text: str, times: int, seconds: float = _START_SECONDS) -> None:
        """Wait until a text has been printed so often."""
        self.wait_until(lambda: self.output.count(text) >= times, seconds, f"{times} x {text!r}")

    def wait(self, seconds: float) -> Finished:
        """Wait for the end of the launcher."""
        self.wait_until(lambda: self._process.poll() is not None, seconds, "the end", alive=False)
        return Finished(self._process.returncode, self.output)

    def require_gone(self, *hosts: Host) -> None:
        """Fail the test if a process of the job is left on one of the hosts."""

        def left() -> dict[str, list[str]]:
            found = {host.name: list(host.processes().values()) for host in hosts}
            return {name: lines for name, lines in found.items() if lines}

        end = time.monotonic() + _CLEARED_SECONDS
        while left() and time.monotonic() < end:
            time.sleep(0.05)
        assert not left(), f"{left()}; it printed:\n{self.output}"

    def end(self) -> None:
        """End it, however it is."""
        end_job(self._process)

    def wait_until(
        self, done: Callable[[], bool], seconds: float, what: str, *, alive: bool = True
    ) -> None:
        """Wait for something that the job does; unless `alive`, for what comes after its end."""
        end = time.monotonic() + seconds
        while not done():
            ended = self._process.poll() if alive else None
            if time.monotonic() > end or ended is not None:
                shown = f"exit status {ended}; it printed:\n{self.output}"
                raise AssertionError(f"no {what} within {seconds:g} s; {shown}")
            time.sleep(0.02)


@contextmanager
def job(
    hosts: Sequence[Host],
    launcher: Sequence[str],
    script: Path,
    *arguments: object,
    printed: Path,
    env: Mapping[str, str] | None = None,
) -> Iterator[Job]:
    """A job of a script, while the block runs."""
    command = [*launcher, sys.executable, str(script), *map(str, arguments)]
    # horovodrun keeps in HOME which hosts it has reached within the last hour.
    started = Job(hosts, command, printed, {"HOME": str(printed.parent), **(env or {})})
    try:
        yield started
    finally:
        started.end()


def unmarked(output: str) -> str:
    """What ranks printed, without the marks that a launcher puts before it."""
    return re.sub(r"^\[(?:[\w.-]+,)?\d+\]<std(?:out|err)>: ?", "", output, flags=re.MULTILINE)
