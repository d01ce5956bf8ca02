"""What a job did in some of its steps, in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Quantity:
    """What a figure measures.

    Attributes:
        unit: "s", "B", "W", "J", "rows/s", "tokens/s", or "" for a plain number.
        meaning: in a few words.
        of_each_rank: whether each rank has its own.
    """

    unit: str
    meaning: str
    of_each_rank: bool = False


# Figures by name. What a machine or a model does not tell is left out of a sample, never guessed;
# besides these a sample has the logs of `fit`, such as "loss", under their own names.
QUANTITIES: Mapping[str, Quantity] = {
    "learning_rate": Quantity("", "the learning rate of the last step"),
    "loss_scale": Quantity("", "the factor of the loss in mixed precision"),
    "gradient_norm": Quantity("", "the norm of all exchanged gradients, before they are clipped"),
    "rows_per_second": Quantity("rows/s", "rows that are trained on", of_each_rank=True),
    "tokens_per_second": Quantity("tokens/s", "tokens that are trained on", of_each_rank=True),
    "step_seconds": Quantity("s", "a step, from the end of the one before it", of_each_rank=True),
    "compute_seconds": Quantity("s", "computing, in a step", of_each_rank=True),
    "waiting_for_ranks_seconds": Quantity(
        "s", "waiting for slower ranks in collectives, in a step", of_each_rank=True
    ),
    "exchange_seconds": Quantity(
        "s", "collectives that nothing hides, once all ranks are there, in a step", True
    ),
    "waiting_for_data_seconds": Quantity(
        "s", "waiting for the next batch, in a step", of_each_rank=True
    ),
    "rest_seconds": Quantity("s", "callbacks and all else, in a step", of_each_rank=True),
    "sent_bytes": Quantity("B", "what is given to collectives in a step", of_each_rank=True),
    "host_memory_bytes": Quantity("B", "memory of the process", of_each_rank=True),
    "host_memory_peak_bytes": Quantity("B", "the most memory of the process", of_each_rank=True),
    "device_memory_bytes": Quantity("B", "memory of the rank's devices", of_each_rank=True),
    "device_memory_peak_bytes": Quantity("B", "the most memory of its devices", of_each_rank=True),
    "model_flops_per_second": Quantity("FLOP/s", "operations of the model, on all ranks"),
    "model_flops_share": Quantity("", "the model's operations, as a share of the devices' peak"),
    "watts": Quantity("W", "power that the job's hosts or devices draw", of_each_rank=True),
    "joules_per_step": Quantity("J", "energy of a step of the job"),
}


@dataclass(frozen=True)
class RankSample:
    """One rank's figures.

    Attributes:
        rank: its number.
        host: its host's name.
        values: figures by name (`QUANTITIES` of each rank).
    """

    rank: int
    host: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    """What a job did since the sample before.

    Attributes:
        step: steps of the training so far, resumed ones included.
        epoch: the epoch that it lies in, from 1.
        steps: how many steps it is about; 0 for the logs of an epoch.
        time: when it was made, in seconds since 1970.
        values: figures of the job by name: rows and tokens of all ranks per second; sums over ranks
            of watts and joules; means over ranks of seconds and bytes; the most of memory. Some may
            be NaN or infinite, such as the loss of a training that goes wrong.
        ranks: figures of each rank.
        sent: bytes that a rank gives to each collective in a step, by its name; of rank 0.
    """

    step: int
    epoch: int
    steps: int
    time: float
    values: Mapping[str, float]
    ranks: Sequence[RankSample] = ()
    sent: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is monitored.

    Attributes:
        ranks: how many ranks it has.
        hosts: the host of each rank.
        parameters: what the training was started with: plain values by name, such as "optimizer",
            "learning_rate", "epochs", "parameters" (the number of weights).
        resumed_at: steps that were done before.
    """

    ranks: int
    hosts: Sequence[str]
    parameters: Mapping[str, Any]
    resumed_at: int = 0


@dataclass(frozen=True)
class Alarm:
    """Something that somebody should look at.

    Attributes:
        kind: "straggler", "data", "loss", "disk" or "throughput".
        text: one sentence: what, where, since when.
        step: when it was seen.
        rank: which rank it is about, if it is about one.
        host: its host.
    """

    kind: str
    text: str
    step: int
    rank: int | None = None
    host: str | None = None
