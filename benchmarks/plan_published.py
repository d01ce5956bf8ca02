"""Holds the cost model of `hvdkit plan` to published measurements.

    python benchmarks/plan_published.py table --output docs/images/plan_published.png
    python benchmarks/plan_published.py fit

The rows, with their sources, are in plan_published.yaml. "fit" finds the numbers of
`hvdkit/planner/fitted.py` from the 1st, 3rd, 5th ... row of each list and looks at no other;
"table" prints what the model predicts for all rows, as Markdown; "*" marks rows of lists of which
something that decides is assumed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from textwrap import fill

import click
import numpy as np
from pictures import picture
from published_cases import SECTIONS, Case, cases

from hvdkit.planner.fitted import FITTED, Fitted

# MLPerf's: seconds of a step that its rows do not take; no part of `hvdkit plan`.
OVERHEAD = 3.29e-3
_HUBER = 0.1  # errors above it weigh less: of some rows not all is known that decides them
_NAMES = [each.name for each in fields(Fitted)]
# No share is above 1; the rest is only positive.
_SHARES = {"flash", "flash_of_2023", "memory", "wire", "overlap"}


@click.group()
def main() -> None:
    """Fit the cost model to published rows, or print what it predicts."""


@main.command()
def fit() -> None:
    """Find the fitted numbers from the rows to fit to, and print them."""
    rows = [case for case in cases() if case.half == "fit"]
    start = np.array([_free(name, getattr(FITTED, name)) for name in _NAMES] + [math.log(OVERHEAD)])

    def loss(point: np.ndarray) -> float:
        fitted, overhead = _numbers(point)
        errors = [abs(math.log1p(case.error(fitted, overhead))) for case in rows]
        return sum(e**2 if e < _HUBER else _HUBER * (2 * e - _HUBER) for e in errors)

    best, before = start, math.inf
    while loss(best) < 0.98 * before:  # from the last result again: a simplex may have collapsed
        before = loss(best)
        best = _nelder_mead(loss, best, 0.15, 150)
    fitted, overhead = _numbers(best)
    for name, value in asdict(fitted).items():
        click.echo(f"    {name}: float = {value:.3g}")
    click.echo(f"OVERHEAD = {overhead:.3g}; loss {loss(start):.4f} -> {loss(best):.4f}")
    _summary(rows, fitted, overhead)


@main.command()
@click.option("--output", type=click.Path(path_type=Path), help="A picture to draw.")
def table(output: Path | None) -> None:
    """Print all rows."""
    for half in ("held out", "fit", "nothing fitted"):
        _summary([case for case in cases() if case.half == half], FITTED, OVERHEAD)
    for name, section in SECTIONS.items():
        click.echo(f"\n**{section['title']}** ({section['source']})\n")
        for word in ("checked", "assumed"):
            if word in section:
                click.echo(fill(f"{word.capitalize()}: {section[word]}.\n", 100) + "\n")
        click.echo("| | published | predicted | error | half |\n|---|---:|---:|---:|---|")
        for case in cases():
            if case.section == name:
                click.echo(_line(case))
    if output is not None:
        _draw(output)


def _line(case: Case) -> str:
    predicted = case.predict(FITTED, OVERHEAD)
    error = case.error(FITTED, OVERHEAD)
    doubt = " *" if "assumed" in SECTIONS[case.section] else ""
    return (
        f"| {case.name}{doubt} | {_figure(case.published)} | {_figure(predicted)} | "
        f"{100 * error:+.1f} % | {case.half} |"
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _summary(rows: Sequence[Case], fitted: Fitted, overhead: float) -> None:
    click.echo(f"\n| {rows[0].half} | rows | median error | largest | within 10 % |")
    click.echo("|---|---:|---:|---:|---:|")
    for name, section in SECTIONS.items():
        errors = [abs(c.error(fitted, overhead)) for c in rows if c.section == name]
        if errors:
            within = sum(error <= 0.1 for error in errors)
            click.echo(
                f"| {section['title']} | {len(errors)} | {100 * statistics.median(errors):.1f} % | "
                f"{100 * max(errors):.1f} % | {within} of {len(errors)} |"
            )


def _draw(file: Path) -> None:
    with picture(file, size=(6.5, 4.5)) as (axis,):
        for half, marker in (("fit", "x"), ("held out", "o"), ("nothing fitted", "+")):
            ratios = [
                (number, 100 * case.error(FITTED, OVERHEAD))
                for number, name in enumerate(SECTIONS)
                for case in cases()
                if case.section == name and case.half == half
            ]
            axis.plot(
                [error for _, error in ratios], [number for number, _ in ratios], marker,
                label=half, fillstyle="none",
            )  # fmt: skip
        axis.axvspan(-10, 10, color="0.92", zorder=0)
        titles = [section["title"].rpartition(",")[0] for section in SECTIONS.values()]
        axis.set_yticks(range(len(titles)), titles, fontsize=7)
        axis.invert_yaxis()
        axis.set_xlabel("error of the prediction (%)")
        axis.legend()


def _free(name: str, value: float) -> float:
    """A number without bounds for one of the fitted ones."""
    return math.log(value / (1 - value)) if name in _SHARES else math.log(value)


def _numbers(point: np.ndarray) -> tuple[Fitted, float]:
    values = {
        name: 1 / (1 + math.exp(-x)) if name in _SHARES else math.exp(x)
        for name, x in zip(_NAMES, point[:-1], strict=True)
    }
    return Fitted(**values), math.exp(point[-1])


def _nelder_mead(
    loss: Callable[[np.ndarray], float], start: np.ndarray, size: float, most: int
) -> np.ndarray:
    """The lowest point that a simplex finds (Nelder and Mead, 1965)."""
    simplex = [start, *(start + size * row for row in np.eye(len(start)))]
    points = sorted((loss(point), tuple(point)) for point in simplex)
    for _ in range(most):
        middle = np.mean([point for _, point in points[:-1]], axis=0)
        value, worst = points[-1]
        across = 2 * middle - np.array(worst)
        reflected = (loss(across), tuple(across))
        if reflected[0] < points[0][0]:
            far = middle + 2 * (middle - np.array(worst))
            points[-1] = min(reflected, (loss(far), tuple(far)))
        elif reflected[0] < points[-2][0]:
            points[-1] = reflected
        else:
            near = middle + 0.5 * (np.array(worst) - middle)
            contracted = (loss(near), tuple(near))
            if contracted[0] < value:
                points[-1] = contracted
            else:
                lowest = np.array(points[0][1])
                shrunk = [lowest + 0.5 * (np.array(p) - lowest) for _, p in points[1:]]
                points[1:] = [(loss(p), tuple(p)) for p in shrunk]
        points.sort()
    return np.array(points[0][1])


if __name__ == "__main__":
    main()
