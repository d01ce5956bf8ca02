"""Show that reductions overlap the backward pass: Horovod's timeline of one training step.

    python benchmarks/timeline.py --output docs/images/timeline.png

Each bar is one reduction: from the moment its gradients exist on rank 0 to its end. The dashed
line is where the last gradient exists, which is the end of the backward pass.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
from jobs import run_job
from pictures import picture
from rich.console import Console
from rich.table import Table

# A timeline that is started by the script.
DYNAMIC = {"HOROVOD_TIMELINE": "DYNAMIC"}
Span = tuple[float, float]


@click.command()
@click.option("--model", default="gpt", type=click.Choice(["gpt", "mlp"]))
@click.option("--output", type=click.Path(path_type=Path), help="PNG to write.")
def main(model: str, output: Path | None) -> None:
    """Record a timeline and show the reductions of its last whole step."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "timeline.json"))
        run_job("mpi", 2, ["timeline_worker.py", model, file], "TIMELINE", DYNAMIC)
        spans = _last_step(_reductions(json.loads(Path(file).read_text())))
    begin = min(start for start, _ in spans.values())
    last = max(start for start, _ in spans.values())
    end = max(stop for _, stop in spans.values())
    early = sum(stop <= last for _, stop in spans.values())
    table = Table(title=f"{model}: reductions of one step (ms from the first gradient)")
    for column in ("reduction", "gradients exist", "reduced"):
        table.add_column(column, justify="right")
    for name, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
        table.add_row(name, f"{(start - begin) / 1e3:.1f}", f"{(stop - begin) / 1e3:.1f}")
    console = Console(width=100)
    console.print(table)
    console.print(
        f"{early} of {len(spans)} reductions were done when the last gradient existed, "
        f"{(last - begin) / 1e3:.1f} ms after the first; the rest took {(end - last) / 1e3:.1f} ms."
    )
    if output is not None:
        _draw(spans, begin, last, output)


def _reductions(events: list[dict[str, Any]]) -> dict[str, list[Span]]:
    """The reductions of each bucket, in order: (enqueued, done) in microseconds."""
    named = [e for e in events if e.get("name") == "process_name" and "name" in e["args"]]
    names = {event["pid"]: event["args"]["name"] for event in named}
    found: dict[str, list[Span]] = defaultdict(list)
    opened: dict[int, float] = {}
    depth: dict[int, int] = defaultdict(int)
    for event in events:
        pid = event.get("pid")
        if "bucket" not in names.get(pid, "") or event["ph"] not in ("B", "E"):
            continue
        if event["ph"] == "B":
            opened.setdefault(pid, event["ts"])
            depth[pid] += 1
            continue
        depth[pid] -= 1
        # A reduction is several spans, one after the other; the last one starts as ALLREDUCE.
        if depth[pid] == 0 and "dtype" in event.get("args", {}):
            found[names[pid].rsplit("/", 1)[-1]].append((opened.pop(pid), event["ts"]))
    return found


def _last_step(reductions: dict[str, list[Span]]) -> dict[str, Span]:
    """The spans of the last step of which all reductions were recorded."""
    return {name: spans[-1] for name, spans in reductions.items()}


def _draw(spans: dict[str, Span], begin: float, last: float, file: Path) -> None:
    ordered = sorted(spans.items(), key=lambda item: item[1], reverse=True)
    with picture(file, size=(7, 0.22 * len(ordered) + 1.5)) as (axis,):
        for row, (_, (start, stop)) in enumerate(ordered):
            axis.barh(row, (stop - start) / 1e3, left=(start - begin) / 1e3, color="#2266aa")
        axis.axvline((last - begin) / 1e3, linestyle="--", color="#dd6622", label="last gradient")
        axis.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=7)
        axis.set_xlabel("ms from the first gradient")
        axis.legend()


if __name__ == "__main__":
    main()
