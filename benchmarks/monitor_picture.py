"""Draw the figures of a job over its steps, from what `hvd.monitoring.JsonLines` has written.

    python benchmarks/monitor_picture.py --output docs/images/monitor.png
    python benchmarks/monitor_picture.py --folder logs --output figures.png

The first trains a small network on two ranks, of which the last runs for 60 % of the time
(slowed.py) from the middle on, and draws the loss, how long each rank computes, where the time of a
step goes, and alarms as lines. The second draws the last `fit` of a job of your own.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from jobs import run_job
from pictures import picture
from rich.console import Console

from hvdkit.monitoring import Alarm, Job, Sample, read_lines
from hvdkit.monitoring.sinks.wording import PARTS

COLORS = dict(zip(PARTS, ("#2a9d5c", "#d1495b", "#a05195", "#edae49", "#30638e"), strict=True))


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Of a job that has been.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="PNG to write.")
@click.option("--steps", default=300, help="Of the job that is made.")
def main(folder: Path | None, output: Path, steps: int) -> None:
    """Draw a job."""
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            run_job("mpi", 2, ["monitor_picture_worker.py", made, str(steps)], "PICTURE")
        events = list(read_lines(folder or made))
    begins = max(i for i, event in enumerate(events) if isinstance(event, Job))
    samples = [each for each in events[begins:] if isinstance(each, Sample) and each.steps]
    alarms = [each for each in events[begins:] if isinstance(each, Alarm)]
    _draw(samples, alarms, output)
    for alarm in alarms:
        Console(soft_wrap=True).print(f"step {alarm.step}: {alarm.text}")


def _draw(samples: Sequence[Sample], alarms: Sequence[Alarm], file: Path) -> None:
    steps = [sample.step for sample in samples]
    with picture(file, rows=3, size=(8, 7)) as (loss, computing, parts):
        loss.plot(steps, [sample.values.get("loss") for sample in samples], color="#333333")
        loss.set_ylabel("loss")
        for rank in samples[-1].ranks:
            own = [_of_rank(sample, rank.rank) for sample in samples]
            computing.plot(steps, own, label=f"rank {rank.rank} ({rank.host})", linewidth=1)
        computing.set_ylabel("ms of computing in a step")
        computing.set_ylim(bottom=0)
        computing.legend(fontsize=8)
        known = [name for name in PARTS if all(name in sample.values for sample in samples)]
        of_step = [[1000 * sample.values[name] for sample in samples] for name in known]
        if known:
            colors = [COLORS[name] for name in known]
            parts.stackplot(steps, of_step, labels=[PARTS[n] for n in known], colors=colors)
            parts.legend(fontsize=8, loc="lower left")
        parts.set_ylabel("ms of a step")
        parts.set_xlabel("step")
        for axis in (loss, computing, parts):
            axis.set_xlim(steps[0], steps[-1])
            for alarm in alarms:
                axis.axvline(alarm.step, color="#888888", linestyle=":")


def _of_rank(sample: Sample, rank: int) -> float:
    """The milliseconds that a rank has computed in a step; NaN where that is not known."""
    seconds = {each.rank: each.values.get("compute_seconds", math.nan) for each in sample.ranks}
    return 1000 * seconds.get(rank, math.nan)


if __name__ == "__main__":
    main()
