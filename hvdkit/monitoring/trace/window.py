"""The steps that are traced: what each rank notes in them, and how it comes into one file."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdkit.engine import (
    ProcessSet,
    broadcast_object,
    is_initialized,
    logger,
    ops,
    topology,
)
from hvdkit.engine.clocks import clocks_ahead
from hvdkit.engine.gathering import gather_object
from hvdkit.monitoring.trace.alignment import Comparison, corrected_by
from hvdkit.monitoring.trace.chrome import Process, chrome_trace, write
from hvdkit.monitoring.trace.sources import HorovodView, Profiler
from hvdkit.monitoring.trace.steps import STEPS, TRACKS, Step, collective, slices_of_steps
from hvdkit.watch.activity import pause
from hvdkit.watch.reader import Reader
from hvdkit.watch.slices import Slice, notes
from hvdkit.watch.step_times import step_times

# Operations of a rank in a file, which else a browser can't hold.
MOST_OPERATIONS = 100_000


@dataclass(frozen=True)
class _Found:
    """What one rank has noted, in the time of the first rank.

    Attributes:
        rank: its number.
        host: its host.
        slices: what it did.
        horovod: what Horovod did, of rank 0.
        problems: what is left out, and why.
        uncertainty: by how much its clock may be wrong, in seconds.
    """

    rank: int
    host: str
    slices: Sequence[Slice]
    horovod: Sequence[Slice]
    problems: Sequence[str]
    uncertainty: float


class Window:
    """The steps that are traced, from `begin` to `finish` or `abandon`.

    Args:
        ranks: the ranks that are traced together, all of which do the same; None for this alone.
        operations: whether to keep each operation of TensorFlow.
    """

    def __init__(self, ranks: ProcessSet | None, *, operations: bool) -> None:
        self._ranks = ranks
        self._keeps_operations = operations
        self._steps: list[Step] = []
        self._profiler, self._horovod = Profiler(), HorovodView()
        self._stack = contextlib.ExitStack()
        self._uncertainty = 0.0

    def begin(self) -> None:
        """Begin before a step; all ranks call it."""
        self._noted = self._stack.enter_context(notes.kept())
        self._compared_first = self._compared()
        self._horovod.start()
        if self._ranks is not None:
            ops.barrier(self._ranks)  # nobody may be ahead of Horovod's timeline
        self._profiler.start()
        self._reader = Reader(step_times)
        self._before = self._reader.read()

    def add_steps(self, first: int, last: int, begin: float, end: float) -> None:
        """Take a step that is done, or several of one call; times in seconds since 1970."""
        moments = self._reader.read()
        self._noted += [collective(span, span.sent) for span in moments.spans]
        self._steps.append(Step(first, last, begin, end, moments, self._before))
        self._before = moments

    def add(self, name: str, begin: float, end: float) -> None:
        """Take what happened between steps."""
        self._noted.append(Slice(STEPS, name, begin, end))

    def abandon(self) -> None:
        """Stop everything, and talk to nobody."""
        self._stack.close()
        self._profiler.abandon()
        self._horovod.stop()

    def finish(self, path: Path, about: Mapping[str, Any]) -> bool:
        """Stop everything, and let the first rank write one file; all ranks call it.

        Args:
            path: the file.
            about: more about the trace, for people.

        Returns:
            Whether it was written, the same on all ranks; else the first rank says why.
        """
        self._stack.close()
        profile = self._profiler.stop()
        horovod = self._horovod.stop()
        problems = [
            problem for problem in (self._profiler.problem, self._horovod.problem) if problem
        ]
        slices = [*slices_of_steps(self._steps, profile), *self._noted, *profile.making]
        if self._keeps_operations:
            operations = [*profile.operations, *profile.kernels]
            operations.sort(key=lambda each: each.begin)
            if len(operations) > MOST_OPERATIONS:
                problems.append(
                    f"of {len(operations)} operations of TensorFlow the first {MOST_OPERATIONS} "
                    "are kept"
                )
            slices += operations[:MOST_OPERATIONS]
        corrected = corrected_by(self._compared_first, self._compared())
        found = _Found(
            topology.rank() if is_initialized() else 0,
            socket.gethostname(),
            [corrected(each) for each in self._inside(slices)],
            self._inside(horovod),
            problems,
            self._uncertainty,
        )
        if self._ranks is None:
            return _write([found], path, about) is None
        everyone = gather_object(found, "hvdkit.trace", self._ranks)
        problem = None
        if everyone is not None:
            with pause("writing the trace"):
                problem = _write(everyone, path, about)
        first = topology.process_set_ranks(self._ranks)[0]
        problem = broadcast_object(
            problem, first, name="hvdkit.trace.written", process_set=self._ranks
        )
        return problem is None

    def _inside(self, slices: Sequence[Slice]) -> list[Slice]:
        """Those that touch the steps: what was noted around them is the tracing itself."""
        begin = min((step.begin for step in self._steps), default=0.0)
        end = max((step.end for step in self._steps), default=0.0)
        return [each for each in slices if each.begin < end and each.end > begin]

    def _compared(self) -> Comparison:
        """Compare this rank's clock; all ranks call it."""
        if self._ranks is None:
            return Comparison(time.time(), 0.0)
        place = topology.process_set_ranks(self._ranks).index(topology.rank())
        ahead = clocks_ahead(self._ranks)[place]
        self._uncertainty = max(self._uncertainty, ahead.uncertainty)
        return Comparison(time.time(), ahead.seconds)


def _write(everyone: Sequence[_Found], path: Path, about: Mapping[str, Any]) -> str | None:
    """Write the file, and say so; what went wrong, in words."""
    processes = [Process(f"rank {each.rank}", each.host, each.slices) for each in everyone]
    horovod = [each for found in everyone for each in found.horovod]
    if horovod:
        processes.append(Process("Horovod", "as rank 0 sees it", horovod))
    problems = list(dict.fromkeys(problem for found in everyone for problem in found.problems))
    about = {
        **about,
        "ranks": len(everyone),
        "clocks agree to seconds": max(found.uncertainty for found in everyone),
        "left out": problems,
    }
    try:
        write(chrome_trace(processes, TRACKS, about), path)
    except OSError as error:
        logger.warning("hvdkit: the trace could not be written to %s: %s", path, error)
        return str(error)
    logger.info("hvdkit: trace in %s; open it at https://ui.perfetto.dev", path)
    for problem in problems:
        logger.info("hvdkit: the trace: %s.", problem)
    return None
