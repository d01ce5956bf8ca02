"""A job as a table of rich."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hvdkit.monitoring.sample import Job, RankSample, Sample
from hvdkit.monitoring.sinks import wording
from hvdkit_cli.top.seen import Seen

_COLOURS = {
    "compute": "green",
    "waiting for ranks": "red",
    "exchange": "magenta",
    "waiting for data": "yellow",
    "rest": "blue",
}
_BAR_WIDTH = 50
_COLUMNS = {
    "rows_per_second": ("rows/s", wording.number),
    "step_seconds": ("step", wording.seconds),
    "compute_seconds": ("compute", wording.seconds),
    "waiting_for_ranks_seconds": ("for ranks", wording.seconds),
    "exchange_seconds": ("exchange", wording.seconds),
    "waiting_for_data_seconds": ("for data", wording.seconds),
    "rest_seconds": ("rest", wording.seconds),
    "host_memory_bytes": ("memory", wording.size),
    "device_memory_bytes": ("of devices", wording.size),
    "watts": ("watts", wording.number),
}
# Lines besides the ranks': frames, figures, heads.
_OTHER_LINES = 16


def picture(seen: Seen, now: float, height: int | None = None) -> RenderableType:
    """What is shown of a job.

    Args:
        seen: what is known of it.
        now: seconds since 1970.
        height: lines that it may take, about; None for any number.
    """
    parts: list[RenderableType] = []
    if seen.steps is None:
        parts.append(Text("no figures yet: the first sample comes after the first steps"))
    else:
        parts += [*_figures(seen.steps, seen.job), _step(seen.steps)]
    if seen.epoch is not None:
        parts.append(Text(wording.line(seen.epoch)))
    if seen.steps is not None and seen.steps.ranks:
        rows = None if height is None else max(height - _OTHER_LINES - len(seen.alarms), 3)
        parts.append(_ranks(seen.steps.ranks, rows))
    for alarm in seen.alarms:
        parts.append(Text(f"step {alarm.step}: {alarm.text}", style="bold yellow"))
    return Panel(Group(*parts), title=_title(seen, now), title_align="left")


def _title(seen: Seen, now: float) -> Text:
    title = Text()
    if seen.job is not None:
        hosts = len(set(seen.job.hosts))
        title.append(f"{_count(seen.job.ranks, 'rank')} on {_count(hosts, 'host')}: ")
    silent = seen.silent_seconds(now)
    if seen.ended:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seen.last))
        title.append(f"ended at {at}", style="bold")
    elif silent is not None:
        title.append(f"no news for {_long(silent)}", style="bold red")
    else:
        title.append("runs", style="bold green")
    return title


def _figures(sample: Sample, job: Job | None) -> Iterable[Text]:
    values = sample.values
    parameters: Mapping[str, object] = {} if job is None else job.parameters
    epochs = parameters.get("epochs")
    of_epochs = f" of {epochs}" if epochs else ""
    said = [f"step {sample.step}", f"epoch {sample.epoch}{of_epochs}"]
    said += [f"{name} {wording.number(value)}" for name, value in wording.logs_of(sample).items()]
    for name, words in (
        ("learning_rate", "learning rate"),
        ("gradient_norm", "gradient norm"),
        ("loss_scale", "loss scale"),
    ):
        if name in values:
            said.append(f"{words} {wording.number(values[name])}")
    yield Text(", ".join(said))
    speed = [
        f"{wording.number(values[name])} {unit}"
        for name, unit in (
            ("rows_per_second", "rows/s"),
            ("tokens_per_second", "tokens/s"),
            ("model_flops_per_second", "FLOP/s"),
            ("watts", "W"),
            ("joules_per_step", "J a step"),
        )
        if name in values
    ]
    if "model_flops_share" in values:
        speed.append(f"{values['model_flops_share']:.0%} of the peak FLOP/s")
    if speed:
        yield Text(", ".join(speed))


def _step(sample: Sample) -> Text:
    """The step, with a bar of its parts."""
    text = Text()
    if "step_seconds" in sample.values:
        text.append(f"a step {wording.seconds(sample.values['step_seconds'])}")
    shares = wording.shares(sample.values)
    if not shares:
        return text
    text.append("  ")
    done, drawn = 0.0, 0
    for word, share in shares.items():
        done += share
        cells = round(done * _BAR_WIDTH) - drawn
        text.append("█" * cells, style=_COLOURS[word])
        drawn += cells
    for word, share in shares.items():
        text.append(f"\n  {share:4.0%} {word}", style=_COLOURS[word])
    return text


def _ranks(ranks: Iterable[RankSample], rows: int | None) -> RenderableType:
    """A row for each rank; of too many, those that the others wait for."""
    ranks = list(ranks)
    shown = ranks
    if rows is not None and len(ranks) > rows:
        slowest = sorted(ranks, key=lambda rank: rank.values.get("waiting_for_ranks_seconds", 0.0))
        shown = sorted(slowest[:rows], key=lambda rank: rank.rank)
    known = [name for name in _COLUMNS if any(name in rank.values for rank in ranks)]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("host", overflow="fold")
    for name in known:
        table.add_column(_COLUMNS[name][0], justify="right", no_wrap=True)
    for rank in shown:
        figures = [
            _COLUMNS[name][1](rank.values[name]) if name in rank.values else "" for name in known
        ]
        table.add_row(str(rank.rank), Text(rank.host), *figures)
    if len(shown) == len(ranks):
        return table
    left_out = Text(f"and {len(ranks) - len(shown)} ranks that wait longer for the others")
    return Group(table, left_out)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _long(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
