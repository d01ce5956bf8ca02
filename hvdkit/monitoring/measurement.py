"""What `hvdkit scale` asks of the ranks of a job, and what they answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Ranks find the request in this variable, as JSON.
VARIABLE = "HVDKIT_MEASURE"
_ANSWER = "measured.json"


@dataclass(frozen=True)
class Measurement:
    """What is to be measured.

    Attributes:
        folder: where rank 0 writes the samples and the answer.
        warm_up: steps of a `fit` that are left out, the first among them, which is traced.
        steps: steps that are measured after these.
        every: steps of a sample.
        divide: what the rows of a rank in a batch are divided by.
    """

    folder: str
    warm_up: int
    steps: int
    every: int
    divide: int = 1

    def as_text(self) -> str:
        """The value of the variable."""
        return json.dumps(asdict(self))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Measurement | None:
        """What the environment asks for; None where nobody measures."""
        text = environ.get(VARIABLE)
        return cls(**json.loads(text)) if text else None


@dataclass(frozen=True)
class Use:
    """What a rank has used of its host in the measured steps.

    Attributes:
        rank: its number.
        host: its host's name.
        seconds: how long they took.
        cpu_seconds: of its process and those it has started.
        cores: numbers of the cores that it may run on.
        quota: how many of them the container may use at a time; None without a limit.
        devices: numbers of the GPUs that it trains on.
        devices_busy: the share of time in which these were; None where they do not tell.
        network: what the host has sent by its busiest network interface; None where another rank
            tells, and where there is none.
    """

    rank: int
    host: str
    seconds: float
    cpu_seconds: float
    cores: list[int]
    quota: float | None
    devices: list[int]
    devices_busy: float | None
    network: Network | None


@dataclass(frozen=True)
class Network:
    """What a host has sent by one of its network interfaces.

    Attributes:
        name: the interface's.
        sent_bytes: by all processes of the host.
        bytes_per_second: what it can send; None where it does not tell.
    """

    name: str
    sent_bytes: int
    bytes_per_second: float | None


@dataclass(frozen=True)
class Answer:
    """What comes of a measurement.

    Attributes:
        uses: of each rank; empty where nothing was measured.
        left_out: the user's callbacks that were left out.
        made: steps of a `fit` that ended before all were measured.
        refused: why the batch can't be divided as it was asked for.
    """

    uses: list[Use] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    made: int = 0
    refused: str = ""

    def write(self, folder: Path) -> None:
        """Write it into the folder of its measurement; whoever finds it finds it whole."""
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{_ANSWER}.unfinished"
        unfinished.write_text(json.dumps(asdict(self)))
        unfinished.replace(folder / _ANSWER)

    @classmethod
    def read(cls, folder: Path) -> Answer | None:
        """The answer in a folder; None if there is none."""
        file = folder / _ANSWER
        if not file.exists():
            return None
        values: dict[str, Any] = json.loads(file.read_text())
        values["uses"] = [_use(**use) for use in values["uses"]]
        return cls(**values)


def _use(network: dict[str, Any] | None, **others: Any) -> Use:
    return Use(**others, network=None if network is None else Network(**network))
