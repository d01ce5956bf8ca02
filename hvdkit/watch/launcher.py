"""What has started the ranks of this host, and may not end as it should when the job has failed.

Open MPI 5's mpirun waits for ever for a host that is silent, and its daemons do on theirs. Where a
host closes its connections, mpirun ends at once, with a status that may be 0, and leaves the ranks
beside it alone: their output goes nowhere. A rank can end what waits, and say its message where
mpirun would have. It can't change an exit status.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hvdkit.watch.processes import Process

# After a failure mpirun ends within a second, and needs longer on hundreds of hosts.
END_SECONDS = 10.0

_OPEN_MPI = frozenset({"mpirun", "mpiexec", "prterun", "orterun", "prted", "orted"})
_GUARD = Path(__file__).with_name("launcher_guard.py")


@dataclass
class Launcher:
    """Open MPI's mpirun on its own host, its daemon on the others.

    Attributes:
        name: its program.
        processes: the daemon and what has started it, the nearest to the ranks first.
        stderr: where mpirun prints; None on hosts where it does not run, and where nobody else may
            write to it.
    """

    name: str
    processes: list[Process]
    stderr: int | None

    @classmethod
    def found(cls) -> Launcher | None:
        """The launcher of this process; None where it is another one than Open MPI's."""
        names: list[str] = []
        processes: list[Process] = []
        pid = os.getppid()
        while pid > 1:
            name, parent = _name_and_parent(pid)
            if name in _OPEN_MPI and (process := Process.watched(pid)) is not None:
                names.append(name)
                processes.append(process)
            elif processes:
                break
            pid = parent
        if not processes:
            return None
        beside = not names[-1].endswith("d")
        return cls(names[0], processes, _stderr_of(processes[-1].pid) if beside else None)

    def __str__(self) -> str:
        return f"{self.name}, pid {self.process.pid}"

    @property
    def process(self) -> Process:
        """The one whose end leaves the ranks alone."""
        return self.processes[0]

    def say(self, text: str) -> None:
        """Print where mpirun does, if that is on this host and somebody reads it still."""
        if self.stderr is not None:
            with contextlib.suppress(OSError):
                os.write(self.stderr, text.encode(errors="replace"))

    def end_if_it_waits(self) -> None:
        """Let a process that outlives this one end the launcher, unless it ends by itself."""
        pidfds = [process.pidfd for process in self.processes]
        subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), str(END_SECONDS), *map(str, pidfds)],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=pidfds,
            start_new_session=True,
        )

    def close(self) -> None:
        """Watch no longer."""
        for process in self.processes:
            process.close()
        if self.stderr is not None:
            os.close(self.stderr)


def _name_and_parent(pid: int) -> tuple[str, int]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it has ended, or is not for us to see
        return "", 0
    head, _, tail = stat.rpartition(")")
    return head.partition("(")[2], int(tail.split()[1])


def _stderr_of(pid: int) -> int | None:
    """A file may hold what mpirun prints: what is written comes to its end."""
    with contextlib.suppress(OSError):
        return os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK)
    return None
