"""Show how reductions overlap the backward pass: Horovod's timeline of a training step.

    python benchmarks/timeline.py --output docs/images/timeline.png

Each bar is one reduction, seen from rank 0: light from the moment its gradients exist until all
ranks have theirs, dark while it is reduced. The dashed line is where the last gradient exists,
which is the end of the backward pass. Of the recorded steps, the one whose share of reductions
done before that line is the median is shown.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import click
from jobs import run_job
from pictures import picture
from rich.console import Console
from rich.table import Table

# A timeline that is started by the script.
DYNAMIC = {"HOROVOD_TIMELINE": "DYNAMIC"}


class Span(NamedTuple):
    """One reduction of a step, in microseconds of the timeline."""

    ready: float
    agreed: float
    done: float


Step = dict[str, Span]


@click.command()
@click.option("--model", default="gpt", type=click.Choice(["gpt", "mlp"]))
@click.option("--output", type=click.Path(path_type=Path), help="PNG to write.")
def main(model: str, output: Path | None) -> None:
    """Record a timeline and show the reductions of one of its steps."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "timeline.json"))
        run_job("mpi", 2, ["timeline_worker.py", model, file], "TIMELINE", DYNAMIC)
        steps = _steps(json.loads(Path(file).read_text()))
    steps.sort(key=_early)
    step = steps[len(steps) // 2]
    begin = min(span.ready for span in step.values())
    last = max(span.ready for span in step.values())
    end = max(span.done for span in step.values())
    table = Table(title=f"{model}: reductions of one step (ms from the first gradient)")
    for column in ("reduction", "gradients exist", "on all ranks", "reduced"):
        table.add_column(column, justify="right")
    for name, span in sorted(step.items(), key=lambda item: item[1]):
        table.add_row(name, *(f"{(moment - begin) / 1e3:.1f}" for moment in span))
    console = Console(width=100)
    console.print(table)
    console.print(
        f"{_early(step)} of {len(step)} reductions were done when the last gradient existed, "
        f"{(last - begin) / 1e3:.1f} ms after the first; the rest took {(end - last) / 1e3:.1f} ms."
        f"\nIn {len(steps)} steps: {', '.join(str(_early(s)) for s in steps)}."
    )
    if output is not None:
        _draw(step, begin, last, output)


def _early(step: Step) -> int:
    """How many reductions were done when the last gradient existed."""
    last = max(span.ready for span in step.values())
    return sum(span.done <= last for span in step.values())


def _steps(events: list[dict[str, Any]]) -> list[Step]:
    """The recorded steps, each with the reductions of its buckets."""
    named = [e for e in events if e.get("name") == "process_name" and "name" in e["args"]]
    names = {event["pid"]: event["args"]["name"] for event in named}
    tensors: dict[str, list[Span]] = defaultdict(list)
    ready: dict[int, float] = {}
    agreed: dict[int, float] = {}
    for event in events:
        pid = event.get("pid")
        if "bucket" not in names.get(pid, ""):
            continue
        if event.get("name") == "NEGOTIATE_ALLREDUCE":
            ready[pid] = event["ts"]
        elif event.get("name") == "ALLREDUCE":
            agreed[pid] = event["ts"]
        elif event["ph"] == "E" and "dtype" in event.get("args", {}) and pid in agreed:
            span = Span(ready.pop(pid), agreed.pop(pid), event["ts"])
            tensors[names[pid].rsplit("/", 1)[-1]].append(span)
    return _of_buckets(tensors)


def _of_buckets(tensors: dict[str, list[Span]]) -> list[Step]:
    """Steps by bucket. Horovod calls a bucket's tensors bucket0_1of3, bucket0_2of3, ..."""
    members: dict[str, list[list[Span]]] = defaultdict(list)
    for name, spans in tensors.items():
        members[re.sub(r"_\d+of\d+$", "", name)].append(spans)
    count = min(len(spans) for spans in tensors.values())
    return [
        {
            bucket: Span(*(max(moments) for moments in zip(*(s[i] for s in spans), strict=True)))
            for bucket, spans in members.items()
        }
        for i in range(count)
    ]


def _draw(step: Step, begin: float, last: float, file: Path) -> None:
    ordered = sorted(step.items(), key=lambda item: item[1], reverse=True)
    with picture(file, size=(7, 0.22 * len(ordered) + 1.5)) as (axis,):
        for row, (_, span) in enumerate(ordered):
            ready, agreed, done = ((moment - begin) / 1e3 for moment in span)
            axis.barh(row, agreed - ready, left=ready, color="#aaccee")
            axis.barh(row, done - agreed, left=agreed, color="#2266aa")
        axis.axvline((last - begin) / 1e3, linestyle="--", color="#dd6622", label="last gradient")
        axis.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=7)
        axis.set_xlabel("ms from the first gradient")
        axis.legend()


if __name__ == "__main__":
    main()
