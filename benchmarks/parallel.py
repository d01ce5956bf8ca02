"""What each form of parallelism costs and saves: step time, bytes sent, memory, idle time.

    python benchmarks/parallel.py --output docs/images/parallel

A GPT of 8 blocks is trained undivided in one process, and in each of the forms over ranks, with
the same global batch. Three kinds of jobs are run for each form:

- Step times are measured with all jobs started and warmed up, in turn for some seconds each while
  the others are paused. All forms have the same cores: the undivided model computes on all of them.
- Memory and idle time, and the bytes that are sent, come from jobs of their own, one after the
  other. Memory is the peak of what TensorFlow has allocated; the plan does not count the working
  memory of single operations, which is in it. For the bytes MPI communicates over TCP, so that all
  that ranks send passes the loopback interface, which counts it.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from jobs import COUNTED, PausableJob, run_job, step_times_in_turn
from parallel_forms import FLOAT32_BYTES, FORMS, SHAPE, Form, bytes_to_send
from pictures import picture
from rich.console import Console
from rich.table import Table

from hvdkit.parallel import RankMemory, plan_memory
from hvdkit.schedules import schedules

WORKER = "parallel_worker.py"
# Long cycles, so that Horovod's own messages are few.
OVER_TCP = {
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "tcp,self",
    "OMPI_MCA_btl_tcp_if_include": "lo",
    "HOROVOD_CYCLE_TIME": "10",
}
TWO_RANKS = "unsplit,data,tensor,sequence,pipeline,devices"
MIB = 2**20
Report = dict[str, Any]


@click.command()
@click.option("--forms", default=TWO_RANKS, help=f"With commas, of {', '.join(FORMS)}.")
@click.option("--rounds", default=12, help="Turns of each job; 0 to measure no times.")
@click.option("--seconds", default=8.0, help="Length of a turn.")
@click.option("--output", type=click.Path(path_type=Path), help="Files to write, without ending.")
def main(forms: str, rounds: int, seconds: float, output: Path | None) -> None:
    """Measure all forms and print tables."""
    console, names = Console(width=110), forms.split(",")
    reports = {name: _report(name) for name in names}
    console.print(_memory_table(reports))
    console.print(_traffic_table(reports))
    times = _step_times(names, rounds, seconds) if rounds else {}
    if times:
        console.print(_time_table(times))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        results = {"reports": reports, "times": times}
        output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        _draw(reports, times, output.with_suffix(".png"))


def _report(name: str) -> list[Report]:
    """What each rank held, and what all of them sent."""
    ranks = FORMS[name].degrees.ranks
    report = run_job("mpi", ranks, [WORKER, name, "memory"], "PARALLEL", COUNTED)[0]["ranks"]
    if ranks > 1:
        sent = run_job("mpi", ranks, [WORKER, name, "traffic"], "PARALLEL", env=OVER_TCP)
        report = [a | b for a, b in zip(report, sent[0]["ranks"], strict=True)]
    return report


def _step_times(names: list[str], rounds: int, seconds: float) -> dict[str, list[float]]:
    """The ms per step of each turn of each form."""
    starts = {
        name: partial(PausableJob, "mpi", FORMS[name].degrees.ranks, [WORKER, name, "times"])
        for name in names
    }
    return step_times_in_turn(starts, rounds, seconds)


def _time_table(times: dict[str, list[float]]) -> Table:
    table = Table(title="ms per step")
    table.add_column("")
    for column in ("median", "min", "max", "of the unsplit model (quartiles)"):
        table.add_column(column, justify="right")
    for name, values in times.items():
        figures = (f"{f(values):.0f}" for f in (statistics.median, min, max))
        table.add_row(FORMS[name].title, *figures, _ratio(values, times.get("unsplit", [])))
    return table


def _ratio(values: list[float], unsplit: list[float]) -> str:
    if len(unsplit) < 2 or values is unsplit:
        return ""
    ratios = [own / other for own, other in zip(values, unsplit, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _plan_of(form: Form, report: Report) -> RankMemory:
    return plan_memory(SHAPE, form.degrees, form.training)[report["stage"]]


def _fullest(ranks: list[Report]) -> Report:
    return max(ranks, key=lambda report: report["peak"])


def _memory_table(reports: dict[str, list[Report]]) -> Table:
    """Weights and optimizer of the rank that has most, next to the plan, and the peak."""
    table = Table(title=f"Memory of the fullest rank, MiB; {SHAPE.parameters / 1e6:.1f} M weights")
    table.add_column("")
    for column in (
        "weights", "plan", "optimizer", "plan", "blocks' share", "1/(t p)", "peak", "plan",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    blocks = FLOAT32_BYTES * (SHAPE.parameters - replace(SHAPE, layers=0).parameters)
    for name, ranks in reports.items():
        form = FORMS[name]
        fullest = _fullest(ranks)
        plan = _plan_of(form, fullest)
        table.add_row(
            form.title,
            *(_mib(n) for n in (fullest["weights"], plan.weights)),
            *(_mib(n) for n in (fullest["optimizer"], plan.optimizer)),
            f"{fullest['blocks'] / blocks:.4f}",
            f"{1 / (form.degrees.tensor * form.degrees.pipeline):.4f}",
            *(_mib(n) for n in (fullest["peak"], plan.total)),
        )
    return table


def _mib(size: float) -> str:
    return f"{size / MIB:.1f}"


def _traffic_table(reports: dict[str, list[Report]]) -> Table:
    table = Table(title="Sent by all ranks in a step, MiB, and idle part of a pipeline's time")
    table.add_column("")
    for column in ("measured", "theory", "measured / theory", "idle", "(p-1)/(m+p-1)"):
        table.add_column(column, justify="right")
    for name, ranks in reports.items():
        form = FORMS[name]
        if form.degrees.ranks > 1:
            sent, theory = ranks[0]["sent"], bytes_to_send(form)
            figures = (_mib(sent), _mib(theory), f"{sent / theory:.3f}")
            table.add_row(form.title, *figures, *_idle(form, ranks[0]))
    return table


def _idle(form: Form, report: Report) -> tuple[str, str]:
    if "idle" not in report:
        return "", ""
    schedule, stages = schedules.OneForwardOneBackward(), form.degrees.pipeline
    in_theory = schedules.bubble(schedule, stages, form.micro_batches)
    return f"{report['idle']:.1%}", f"{in_theory:.1%}"


def _draw(reports: dict[str, list[Report]], times: dict[str, list[float]], file: Path) -> None:
    """Bars of memory and bytes, next to plan and theory, and of step times."""
    fullest = {FORMS[name]: _fullest(ranks) for name, ranks in reports.items()}
    memory = {
        "plan": [_plan_of(form, report).total / MIB for form, report in fullest.items()],
        "measured": [report["peak"] / MIB for report in fullest.values()],
    }
    over_ranks = [form.degrees.ranks > 1 for form in fullest]
    sent = {
        "theory": [bytes_to_send(form) / MIB for form in fullest],
        "measured": [
            ranks[0]["sent"] / MIB if sends else 0.0
            for sends, ranks in zip(over_ranks, reports.values(), strict=True)
        ],
    }
    medians = {"step": [statistics.median(times[name]) for name in reports]} if times else {}
    with picture(file, columns=3, size=(13, 3.8)) as axes:
        _bars(axes[0], memory, "memory of the fullest rank (MiB)")
        axes[0].set_yticks(range(len(fullest)), [form.title for form in fullest])
        _bars(axes[1], sent, "sent in a step (MiB)")
        _bars(axes[2], medians, "ms per step")


def _bars(axis: Any, values: dict[str, list[float]], label: str) -> None:
    height = 0.8 / max(1, len(values))
    for number, (name, lengths) in enumerate(values.items()):
        shift = (number - (len(values) - 1) / 2) * height
        places = [row + shift for row in range(len(lengths))]
        axis.barh(places, lengths, height, label=name)
    axis.set_yticks([])
    axis.invert_yaxis()
    axis.set_xlabel(label)
    if len(values) > 1:
        axis.legend()


if __name__ == "__main__":
    main()
