"""What a trace holds, and whether it is one."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hvdkit as hvd

Event = dict[str, Any]


class TraceFile:
    """A trace that was written; it is one as Perfetto wants it."""

    def __init__(self, path: Path) -> None:
        with gzip.open(path, "rt") as file:
            self.content = json.load(file)
        self.about = self.content["otherData"]
        self.processes: dict[int, str] = {}
        self._threads: dict[tuple[int, int], str] = {}
        for event in self.content["traceEvents"]:
            if event["ph"] == "M" and event["name"] == "process_name":
                self.processes[event["pid"]] = event["args"]["name"]
            elif event["ph"] == "M" and event["name"] == "thread_name":
                self._threads[event["pid"], event["tid"]] = event["args"]["name"]
        self.slices = [e for e in self.content["traceEvents"] if e["ph"] == "X"]
        require_valid(self.content["traceEvents"])

    def on(self, process: str, track: str) -> list[Event]:
        """The slices of a process on a track, in the order in which they begin."""
        found = [
            each
            for each in self.slices
            if self.processes[each["pid"]] == process and each["cat"] == track
        ]
        return sorted(found, key=lambda each: each["ts"])

    def names(self, process: str, track: str) -> list[str]:
        """Their names."""
        return [each["name"] for each in self.on(process, track)]

    def threads(self, process: str) -> set[str]:
        """The names of a process's threads."""
        return {name for (pid, _), name in self._threads.items() if self.processes[pid] == process}


def require_valid(events: list[Event]) -> None:
    """The rules of the format, and that nothing on a thread only overlaps."""
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    by_thread: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        assert event["ph"] in ("M", "X"), event
        assert isinstance(event["pid"], int), event
        assert isinstance(event["tid"], int), event
        assert isinstance(event["name"], str), event
        if event["ph"] == "X":
            assert event["ts"] >= 0, event
            assert event["dur"] >= 0, event
            by_thread[event["pid"], event["tid"]].append(event)
    assert by_thread.keys() <= named
    for own in by_thread.values():
        open_: list[float] = []
        for event in sorted(own, key=lambda e: (e["ts"], -e["dur"])):
            begin, end = round(event["ts"] * 1e3), round((event["ts"] + event["dur"]) * 1e3)
            while open_ and open_[-1] <= begin:
                open_.pop()
            assert not open_ or end <= open_[-1], f"{event} overlaps what was before"
            open_.append(end)


def inside(inner: Event, outer: Event) -> bool:
    """Whether one lies in the other."""
    begin, end = outer["ts"], outer["ts"] + outer["dur"]
    return begin <= inner["ts"] and inner["ts"] + inner["dur"] <= end + 0.001


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that all ranks know, gone afterwards."""
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None))
    try:
        yield folder
    finally:
        hvd.barrier()
        if hvd.rank() == 0:
            shutil.rmtree(folder)
