"""Train for some minutes while ranks are killed, stopped and pre-empted at random.

    python benchmarks/soak.py --minutes 20 --output soak.json

The job is started again with the same command after each fault, as a scheduler would. Steps lost
are those that were trained before the fault and again after it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from jobs import Job
from rich.console import Console
from rich.table import Table

FAULTS = {
    "killed (SIGKILL)": signal.SIGKILL,
    "crashed (SIGSEGV)": signal.SIGSEGV,
    "stopped (SIGSTOP)": signal.SIGSTOP,
    "pre-empted (SIGTERM)": signal.SIGTERM,
}
START_LIMIT = 180.0
END_LIMIT = 90.0


@dataclass(frozen=True)
class Event:
    """One fault and what came of it.

    Attributes:
        fault: what happened to the rank.
        rank: to which rank.
        seconds: from the fault to the end of all processes.
        status: exit status of the launcher.
        last_step: the last step before the end of the job.
        lost: steps that were trained again; None if the job did not come back.
    """

    fault: str
    rank: int
    seconds: float
    status: int | None
    last_step: int
    lost: int | None


@click.command()
@click.option("--minutes", default=20.0)
@click.option("--ranks", default=3)
@click.option("--launcher", type=click.Choice(["mpi", "gloo"]), default="mpi")
@click.option("--seed", default=0, help="Decides which rank gets which fault, and when.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file to write.")
def main(minutes: float, ranks: int, launcher: str, seed: int, output: Path | None) -> None:
    """Soak hvdkit in faults and report what survived."""
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as folder:
        events = _soak(Path(folder), 60 * minutes, ranks, launcher, random.Random(seed), console)
    console.print(_table(events, minutes, ranks, launcher))
    if output is not None:
        output.write_text(json.dumps([asdict(event) for event in events], indent=1) + "\n")


def _soak(
    folder: Path, seconds: float, ranks: int, launcher: str, rng: random.Random, console: Console
) -> list[Event]:
    deadline = time.monotonic() + seconds
    events: list[Event] = []
    pending: tuple[str, int, float, int | None, int] | None = None
    while time.monotonic() < deadline:
        steps = _Steps(folder / "steps")
        for file in folder.glob("*.pid"):
            file.unlink()
        job = Job(launcher, ranks, ["soak_worker.py", str(folder)])
        try:
            first = steps.first_new(job, START_LIMIT)
            if pending is not None:
                # The first step after the restart would have been the one after the last.
                events.append(Event(*pending, lost=pending[-1] + 1 - first))
                console.print(events[-1], highlight=False)
            time.sleep(rng.uniform(5, 20))
            fault, rank = rng.choice(list(FAULTS)), rng.randrange(ranks)
            began = time.monotonic()
            os.kill(int((folder / f"{rank}.pid").read_text()), FAULTS[fault])
            status = job.wait(END_LIMIT)
            pending = (fault, rank, time.monotonic() - began, status, steps.last())
        finally:
            job.stop()
    return events


class _Steps:
    """The steps that rank 0 notes in a file, from now on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = len(self._all())

    def _all(self) -> list[int]:
        if not self._file.exists():
            return []
        complete = self._file.read_text().rpartition("\n")[0]
        return [int(line.split()[0]) for line in complete.splitlines()]

    def first_new(self, job: Job, limit: float) -> int:
        """Wait for the first step of the job.

        Raises:
            RuntimeError: the job ended before, or took too long; the message holds its output.
        """
        deadline = time.monotonic() + limit
        while len(self._all()) <= self._known:
            if job.ended() or time.monotonic() > deadline:
                raise RuntimeError(f"the job did not train:\n{job.output()}")
            time.sleep(0.2)
        return self._all()[self._known]

    def last(self) -> int:
        """The last step noted."""
        return self._all()[-1]


def _table(events: list[Event], minutes: float, ranks: int, launcher: str) -> Table:
    table = Table(title=f"{minutes:g} minutes, {ranks} ranks, {launcher}")
    for column in ("fault", "times", "went on", "s until the end", "steps lost: median", "max"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for fault in FAULTS:
        found = [event for event in events if event.fault == fault]
        if not found:
            continue
        lost = [event.lost for event in found if event.lost is not None]
        table.add_row(
            fault,
            str(len(found)),
            str(len(lost)),
            f"{statistics.median(e.seconds for e in found):.1f}",
            f"{statistics.median(lost):g}",
            str(max(lost)),
        )
    return table


if __name__ == "__main__":
    main()
