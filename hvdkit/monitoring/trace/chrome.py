"""Traces as files in Chrome's format, which Perfetto shows.

A process is a rank, a thread one of its tracks. On a thread the format wants slices that are one
after another, or one inside the other; Perfetto leaves out those that only overlap. So what a rank
did at the same time goes to several threads of one name.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdkit.watch.slices import Slice


@dataclass(frozen=True)
class Process:
    """A rank, or what else has a clock of its own.

    Attributes:
        name: as it is shown.
        label: a word beside it, such as the host.
        slices: what it did.
        ahead: how far its clock is ahead, in seconds.
    """

    name: str
    label: str
    slices: Sequence[Slice]
    ahead: float = 0.0


def chrome_trace(
    processes: Sequence[Process], tracks: Sequence[str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The trace as the object that its JSON holds.

    Args:
        processes: in the order in which they are shown.
        tracks: the order of the tracks; others come after these, by name.
        about: more about the trace, for people.

    Returns:
        Times in it are microseconds since the first slice, "begins" of its "otherData" says when
        that was, in seconds since 1970 of the first process's clock.
    """
    begin = min(
        (each.begin - process.ahead for process in processes for each in process.slices),
        default=0.0,
    )
    events: list[dict[str, Any]] = []
    for pid, process in enumerate(processes):
        events += _labels(pid, process)
        events += _events(pid, process, tracks, begin + process.ahead)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {**about, "begins": begin},
    }


def _labels(pid: int, process: Process) -> list[dict[str, Any]]:
    return [
        _metadata("process_name", pid, 0, name=process.name),
        _metadata("process_labels", pid, 0, labels=process.label),
        _metadata("process_sort_index", pid, 0, sort_index=pid),
    ]


def _metadata(what: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _events(
    pid: int, process: Process, tracks: Sequence[str], begin: float
) -> Iterator[dict[str, Any]]:
    by_track: dict[str, list[Slice]] = {name: [] for name in tracks}
    for each in sorted(process.slices, key=lambda s: (s.track not in tracks, s.track)):
        by_track.setdefault(each.track, []).append(each)
    tid = 0
    for track, slices in by_track.items():
        for number, lane in enumerate(_lanes(slices)):
            tid += 1
            name = track if number == 0 else f"{track} ({number + 1})"
            yield _metadata("thread_name", pid, tid, name=name)
            yield _metadata("thread_sort_index", pid, tid, sort_index=tid)
            for each in lane:
                yield from _event(pid, tid, each, begin, float("inf"))


def _lanes(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The slices in as few lists as possible, in each of which they are one after another."""
    lanes: list[list[Slice]] = []
    for each in sorted(slices, key=lambda s: (s.begin, s.end)):
        free = next((lane for lane in lanes if lane[-1].end <= each.begin), None)
        if free is None:
            lanes.append([each])
        else:
            free.append(each)
    return lanes


def _event(pid: int, tid: int, each: Slice, begin: float, limit: float) -> Iterator[dict[str, Any]]:
    """A slice, and what is inside of it, which may not be longer."""
    start, end = min(_micro(each.begin - begin), limit), min(_micro(each.end - begin), limit)
    event = {
        "ph": "X",
        "name": each.name,
        "cat": each.track,
        "pid": pid,
        "tid": tid,
        "ts": start,
        "dur": round(max(0.0, end - start), 3),
    }
    yield {**event, "args": dict(each.details)} if each.details else event
    for inner in each.inside:
        yield from _event(pid, tid, inner, begin, end)


def _micro(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def write(trace: Mapping[str, Any], path: Path) -> None:
    """Write a trace, compressed; the file is there complete or not at all.

    Raises:
        OSError: it can't be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with gzip.open(part, "wt", encoding="utf-8", compresslevel=6) as file:
            json.dump(trace, file, separators=(",", ":"))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
