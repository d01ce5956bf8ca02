"""A job's figures as lines of JSON, there and back."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdkit.monitoring.sample import Alarm, Job, RankSample, Sample

FILE = "monitor.jsonl"


@dataclass(frozen=True)
class End:
    """A `fit` has ended."""


Event = Job | Sample | Alarm | End

_TYPES: dict[type, str] = {Job: "job", Sample: "sample", Alarm: "alarm", End: "end"}


@dataclass(frozen=True)
class Line:
    """A line that was read.

    Attributes:
        time: when it was made, in seconds since 1970.
        event: what it says.
    """

    time: float
    event: Event


def to_line(event: Event) -> str:
    """An event as a line of JSON, with its end; what is not finite becomes null.

    Args:
        event: what to write.
    """
    fields = {"type": _TYPES[type(event)], "time": time.time(), **_plain(event)}
    return json.dumps(fields, allow_nan=False, separators=(",", ":")) + "\n"


def from_line(text: str) -> Line | None:
    """What a line says; null is NaN.

    Args:
        text: a line of JSON.

    Returns:
        None for a line that was cut off, and for a type that is not known.
    """
    try:
        fields = json.loads(text)
        event = _event(fields)
        return None if event is None else Line(float(fields["time"]), event)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class LineReader:
    """Reads a file of lines while it is written.

    Args:
        folder: where `hvd.monitoring.JsonLines` writes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / FILE
        self._read = 0
        self._rest = b""

    def new_lines(self) -> Iterator[Line]:
        """The lines that came since the last call.

        Raises:
            OSError: the file can't be read.
        """
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self._read:  # it was made anew
                self._read, self._rest = 0, b""
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for text in lines:
            line = from_line(text.decode(errors="replace"))
            if line is not None:
                yield line


def read_lines(folder: str | Path) -> Iterator[Job | Sample | Alarm]:
    """What `hvd.monitoring.JsonLines` has written: each `fit` a job, then its samples and alarms.

    Lines that were cut off, as a job that was killed leaves them, are left out.

    Args:
        folder: where it writes.

    Returns:
        The jobs, samples and alarms in the order in which they came; a figure that was NaN or
        infinite is NaN.

    Raises:
        OSError: there is no such file, or it can't be read.

    Example:
        >>> samples = [each for each in hvd.monitoring.read_lines("logs")
        ...            if isinstance(each, hvd.monitoring.Sample)]
    """
    for line in LineReader(folder).new_lines():
        if not isinstance(line.event, End):
            yield line.event


def _plain(value: Any) -> Any:
    """A value of what JSON has."""
    if type(value) is float:  # most are, and a large job has very many
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (each.name for each in dataclasses.fields(value))
        return {name: _plain(getattr(value, name)) for name in names}
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_plain(each) for each in value]
    return str(value)


def _event(fields: Mapping[str, Any]) -> Event | None:
    kind = fields["type"]
    if kind == "job":
        hosts, parameters = list(fields["hosts"]), dict(fields["parameters"])
        return Job(fields["ranks"], hosts, parameters, fields["resumed_at"])
    if kind == "sample":
        ranks = tuple(
            RankSample(each["rank"], each["host"], _figures(each["values"]))
            for each in fields["ranks"]
        )
        return Sample(
            step=fields["step"],
            epoch=fields["epoch"],
            steps=fields["steps"],
            time=fields["time"],
            values=_figures(fields["values"]),
            ranks=ranks,
            sent=_figures(fields["sent"]),
        )
    if kind == "alarm":
        return Alarm(*(fields[name] for name in ("kind", "text", "step", "rank", "host")))
    return End() if kind == "end" else None


def _figures(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}
