"""What TensorFlow did, read from the file that its profiler writes (an XSpace)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorflow.tsl.profiler.protobuf import xplane_pb2

from hvdkit.watch.slices import Slice

MAKING = "making batches"
OPERATIONS = "TensorFlow"
_OPERATION = re.compile(r"(?:[^:\s]+/)?([^:\s/]+):(\w+)")
# What belongs to the gradient of an operation is called as that, below this.
_TAPE = "gradient_tape/"
_DIFFERENTIATED = re.compile(r".*?gradient_tape/[^/:]+")
_PICOSECONDS = 1e-12
_READS = "tf_data_iterator_get_next"
# What hands work to threads.
_NO_WORK = ("Executor", "ThreadpoolListener", "MakeIterator", "InstantiatedCapturedFunction")


@dataclass(frozen=True)
class Profile:
    """What TensorFlow did.

    Attributes:
        operations: each operation that the host ran.
        kernels: what devices did.
        making: what threads of tf.data did to make batches.
        reads: each time that a step took a batch.
    """

    operations: list[Slice] = field(default_factory=list)
    kernels: list[Slice] = field(default_factory=list)
    making: list[Slice] = field(default_factory=list)
    reads: list[Slice] = field(default_factory=list)

    def reads_in(self, begin: float, end: float) -> list[Slice]:
        """When steps waited for their batches, in order."""
        return [read for read in self.reads if begin <= read.begin and read.end <= end]

    def split_of(self, begin: float, end: float) -> float | None:
        """When the forward pass was done and the backward pass began.

        Some operations of the backward pass come early, such as those that look at shapes, and some
        of the forward pass late. So it is the time with the least of both on the wrong side.
        Metrics, and updates of weights whose gradients are there, belong to neither.

        Args:
            begin: when the forward pass began.
            end: when the backward pass was done.

        Returns:
            None where names do not tell what belongs to which, as in what runs eagerly.
        """
        both = [op for op in self.operations if begin <= op.begin and op.end <= end]
        forward = tuple({match[0] for op in both if (match := _DIFFERENTIATED.match(_path(op)))})
        forward = tuple(scope.replace(_TAPE, "") for scope in forward)
        inside = [op for op in both if is_backward(op) or _path(op).startswith(forward)]
        if len({is_backward(op) for op in inside}) < 2:
            return None
        # Each operation of the backward pass adds to what is wrong while it runs, and each of the
        # forward pass takes off it.
        changes = [(op.begin, 1 if is_backward(op) else -1) for op in inside]
        changes += [(op.end, -1 if is_backward(op) else 1) for op in inside]
        wrong, slope, last = 0.0, 0, begin
        best, split = 0.0, begin
        for moment, change in sorted(changes):
            wrong += slope * (moment - last)
            if wrong < best:
                best, split = wrong, moment
            slope, last = slope + change, moment
        return split

    def gradients_in(self, begin: float, end: float) -> float | None:
        """When the last operation of the backward pass was done; None if names do not tell."""
        return _last_end([op for op in self.operations if is_backward(op)], begin, end)

    def end_in(self, begin: float, end: float) -> float | None:
        """When the last operation was done."""
        return _last_end(self.operations, begin, end)


def _last_end(slices: Iterable[Slice], begin: float, end: float) -> float | None:
    """When the last of those was done that lie between two times."""
    ends = [each.end for each in slices if begin <= each.begin and each.end <= end]
    return max(ends, default=None)


def is_backward(operation: Slice) -> bool:
    """Whether an operation belongs to a backward pass, by its name."""
    return _TAPE in _path(operation) or "/gradients/" in _path(operation)


def _path(operation: Slice) -> str:
    """Its whole name."""
    return str(operation.details.get("operation", ""))


def read_profile(folder: Path) -> Profile:
    """Read what `tf.profiler.experimental` has written.

    Args:
        folder: as given to it; it holds one profile of one host.
    """
    profile = Profile()
    for file in sorted(folder.glob("plugins/profile/*/*.xplane.pb")):
        space = xplane_pb2.XSpace()
        space.ParseFromString(file.read_bytes())
        begin = _begin_of(space)
        for plane in space.planes:
            for line in plane.lines:
                _read_line(plane, line, begin, profile)
    return profile


def _begin_of(space: Any) -> float:
    """When it began, in seconds since 1970."""
    for plane in space.planes:
        for stat in plane.stats:
            if plane.stat_metadata[stat.metadata_id].name == "profile_start_time":
                return float(stat.uint64_value or stat.int64_value) / 1e9
    return 0.0


def _read_line(plane: Any, line: Any, begin: float, profile: Profile) -> None:
    start = begin + line.timestamp_ns / 1e9
    if plane.name.startswith("/device:"):
        track = f"{OPERATIONS}, {plane.name} {line.display_name or line.name}"
        profile.kernels.extend(_slices(plane, line, start, track))
    elif line.name.startswith(_READS):
        reads = outermost(_slices(plane, line, start, MAKING))
        profile.reads.extend(each for each in reads if each.name.startswith("IteratorGetNext"))
    elif line.name.startswith("tf_data_"):
        made = [s for s in _slices(plane, line, start, MAKING) if not s.name.startswith(_NO_WORK)]
        profile.making.extend(s._replace(name=_short(s.name)) for s in outermost(made))
    elif plane.name.startswith("/host:CPU"):
        profile.operations.extend(_operations(_slices(plane, line, start, OPERATIONS)))


def _slices(plane: Any, line: Any, start: float, track: str) -> Iterator[Slice]:
    for event in line.events:
        if event.duration_ps:
            at = start + event.offset_ps * _PICOSECONDS
            name = plane.event_metadata[event.metadata_id].name
            yield Slice(track, name, at, at + event.duration_ps * _PICOSECONDS)


def outermost(slices: Iterable[Slice]) -> list[Slice]:
    """Those that are in no other one."""
    found: list[Slice] = []
    for each in sorted(slices, key=lambda s: (s.begin, -s.end)):
        if not found or each.begin >= found[-1].end:
            found.append(each)
    return found


def _short(name: str) -> str:
    """What a dataset is, without those that take its elements: "Map" of "Iterator::Root::Map"."""
    return name.rpartition("::")[2].partition(":")[0]


def _operations(slices: Iterable[Slice]) -> Iterator[Slice]:
    """Operations among all that a thread does, named by what they are."""
    for each in slices:
        if match := _OPERATION.fullmatch(each.name):
            name, kind = match.groups()
            short = name if name.startswith(kind) else f"{name} ({kind})"
            yield each._replace(name=short, details={"operation": each.name})
