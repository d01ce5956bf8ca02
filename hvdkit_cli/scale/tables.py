"""What was found, as tables: for the terminal, and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from hvdkit_cli.scale.result import Series, Size
from hvdkit_cli.scale.words import percent, ranged, times, title_of


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        title: what stands above it.
        columns: their headings.
        rows: a text for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def grids(series: Series) -> list[Grid]:
    """The tables of a series: how fast it is, and where the time goes."""
    speeds = [_speed_row(size, is_first=i == 0) for i, size in enumerate(series.sizes)]
    found = [_grid(title_of(series), speeds)]
    parts = [_part_row(size) for size in series.sizes if size.parts is not None]
    if parts:
        found.append(_grid(f"{series.kind.capitalize()}: where a step goes", parts))
    return found


def rich_table(grid: Grid) -> Table:
    """The same for a terminal."""
    table = Table(title=grid.title, title_justify="left")
    for column in grid.columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in grid.rows:
        table.add_row(*row)
    return table


def _grid(title: str, rows: Sequence[dict[str, str]]) -> Grid:
    """Columns in which no row has anything are left out."""
    names = [name for name in (rows[0] if rows else {}) if any(row[name] for row in rows)]
    return Grid(title, names, [[row[name] for name in names] for row in rows])


def _speed_row(size: Size, *, is_first: bool) -> dict[str, str]:
    return {
        "ranks": str(size.ranks),
        "hosts": str(size.hosts) if size.hosts > 1 else "",
        "rows/step": f"{size.rows_of_a_step:.0f}",
        "ms/step": f"{1000 * size.step_seconds:.3g}",
        "rows/s": f"{size.speed.value:,.0f}",
        "tokens/s": "" if size.tokens is None else f"{size.tokens.value:,.0f}",
        "speed-up": times(1) if is_first else ranged(size.speed_up, times),
        "efficiency": percent(size.efficiency.value),
        "cores busy": f"{percent(size.cores_busy)} of {size.cores:g}",
        "GPUs busy": "" if size.devices_busy is None else percent(size.devices_busy),
        "of peak": "" if size.model_flops_share is None else percent(size.model_flops_share),
        "device memory": "" if size.device_memory is None else _bytes(size.device_memory),
        "sent/s": "" if not size.sent else _bytes(size.sent),
        "link/s": "" if size.link is None else _bytes(size.link),
        "of link": "" if size.link_share is None else percent(size.link_share),
        "J/step": "" if size.joules is None else f"{size.joules:.3g}",
    }


def _part_row(size: Size) -> dict[str, str]:
    parts = size.parts or {}
    whole = sum(parts.values())
    shares = {part: percent(seconds / whole) for part, seconds in parts.items()}
    return {"ranks": str(size.ranks), **shares}


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
