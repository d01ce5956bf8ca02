"""What Horovod did, read from the file that its timeline writes.

Horovod writes events of a beginning and an end, and takes each tensor for a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hvdkit.watch.slices import Slice

TRACK = "operations"


@dataclass
class _Open:
    """What has begun and not ended."""

    name: str
    begin: float
    inside: list[Slice] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Tensor:
    """A tensor: what is open of it, and what it has been through since it was last done."""

    name: str
    open: list[_Open] = field(default_factory=list)
    done: list[Slice] = field(default_factory=list)


def read_timeline(text: str) -> list[Slice]:
    """The collectives that Horovod ran, from the first rank's request to the result.

    Args:
        text: what the file holds; it may be empty, or end anywhere.

    Returns:
        One slice for each tensor and time, and inside of it the negotiation, in which `details`
        say how many seconds after its beginning each rank was ready, and the operation with its
        parts. Seconds since 1970, of rank 0.
    """
    tensors: dict[int, _Tensor] = {}
    found: list[Slice] = []
    origin = 0.0
    for event in _events(text):
        args = event.get("args", {})
        if event["ph"] == "M":
            origin = args.get("start_time_since_epoch_in_micros", origin)
            if "name" in args:
                tensors[event["pid"]] = _Tensor(args["name"])
        elif event.get("pid") in tensors:
            found += _taken(tensors[event["pid"]], event, (origin + event["ts"]) / 1e6)
    return found


def _taken(tensor: _Tensor, event: dict[str, Any], now: float) -> Iterator[Slice]:
    """Take an event of a tensor; what it has been through, if this is the end."""
    if event["ph"] == "B":
        tensor.open.append(_Open(event["name"], now))
    elif event["ph"] == "X" and tensor.open:  # a rank is ready
        last = tensor.open[-1]
        last.details[f"rank {event['name']} ready after s"] = round(now - last.begin, 6)
    elif event["ph"] == "E" and tensor.open:
        last = tensor.open.pop()
        details = {**last.details, **event.get("args", {})}
        part = Slice(TRACK, last.name, last.begin, now, details, tuple(last.inside))
        if tensor.open:
            tensor.open[-1].inside.append(part)
            return
        tensor.done.append(part)
        if not part.name.startswith("NEGOTIATE"):
            parts, tensor.done = tuple(tensor.done), []
            yield Slice(TRACK, tensor.name, parts[0].begin, now, {}, parts)


def _events(text: str) -> Iterator[dict[str, Any]]:
    """The events that are complete."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            event, end = decoder.raw_decode(text, place)
        except ValueError:
            return
        yield event
        place = text.find("{", end)
