"""`hvdkit scale` from its command line to its report."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from rich.console import Console

from hvdkit_cli.errors import CommandError
from hvdkit_cli.run.command import make_job
from hvdkit_cli.run.request import Request
from hvdkit_cli.scale.as_json import as_json
from hvdkit_cli.scale.figures import Figures
from hvdkit_cli.scale.page import page
from hvdkit_cli.scale.picture import can_draw, draw
from hvdkit_cli.scale.plan import Plan, Start, indivisible, require_batch
from hvdkit_cli.scale.result import STRONG, Result, Series, kind_of, series_of
from hvdkit_cli.scale.setting import Setting
from hvdkit_cli.scale.start import Refused, Starter
from hvdkit_cli.scale.tables import grids, rich_table
from hvdkit_cli.scale.words import sentences

_DEFAULT_FOLDER = Path("hvdkit-scale")
_COLUMNS = 160
_SHORT_SECONDS = 2.0
_BY_ITSELF = (
    "The script divides its batch by the ranks itself, so what it does as it is is strong scaling."
)


_HOW_STRONG = (
    "put the rows of a rank in a batch into the command, as in --batch 64 -- python train.py "
    "--batch-size {batch}"
)


@dataclass(frozen=True)
class Options:
    """How it is measured.

    Attributes:
        sizes: numbers of ranks, from the fewest to the most.
        scaling: weak, strong or both.
        rounds: how often each is started.
        steps: steps of a start that are measured.
        warm_up: steps before these.
        batch: rows of a rank on the fewest ranks, for a place in the command.
        limit: seconds that a start may take.
        output: the folder of the report; None for a new one.
        json: whether to print JSON in place of tables.
    """

    sizes: Sequence[int]
    scaling: str
    rounds: int
    steps: int
    warm_up: int
    batch: int | None
    limit: float
    output: Path | None
    json: bool


def scale(options: Options, request: Request) -> None:
    """Measure, and report.

    Args:
        options: how.
        request: what is started, and where; without a number of ranks.

    Raises:
        CommandError: something can't be started, or has not been measured.
    """
    command = request.command
    require_batch(command, options.batch)
    for ranks in options.sizes:
        make_job(replace(request, ranks=ranks), os.environ)
    folder, setting = _new_folder(options.output), Setting.here()
    starter = Starter(
        request, options.batch, options.warm_up, options.steps, options.limit,
        folder / "starts",
    )  # fmt: skip
    measured = _Measured(options, starter, Console(stderr=True))
    measured.run()
    result = Result(
        shlex.join(command), setting, options.rounds, options.steps, options.warm_up,
        measured.series(), measured.notes(),
    )  # fmt: skip
    _report(result, folder, prints_json=options.json)


class _Measured:
    """All starts, in their order.

    Args:
        options: how.
        starter: makes them.
        console: for what goes on.
    """

    def __init__(self, options: Options, starter: Starter, console: Console) -> None:
        self._options = options
        self._starter = starter
        self._console = console
        self._found: dict[Start, Figures] = {}
        self._why_not: str | None = None
        if options.scaling != "weak":
            self._why_not = indivisible(options.sizes, options.batch)

    def run(self) -> None:
        """Make the starts."""
        options = self._options
        weak, strong = options.scaling != "strong", options.scaling != "weak"
        self._require_strong()
        starts = list(Plan(options.sizes, options.rounds, weak, strong).starts())
        for number, start in enumerate(starts, 1):
            if start.divide > 1 and (self._why_not or self._divides_by_itself()):
                continue
            self._console.print(
                f"{number} of {len(starts)}: {start}, round {start.round}", end=": ", style="dim"
            )
            begun = time.monotonic()
            try:
                found = self._starter.run(start)
            except CommandError:
                self._console.print()  # the error has a line of its own
                raise
            if isinstance(found, Refused):
                self._why_not = found.why
                self._console.print(f"left out: {found.why}", style="dim", markup=False)
                self._require_strong()
                continue
            self._found[start] = found
            seconds = time.monotonic() - begun
            self._console.print(f"{found.speed:,.0f} rows/s ({seconds:.0f} s)", style="dim")
            if start.divide > 1:
                self._require_same_batch(start, found)

    def series(self) -> list[Series]:
        """What they say, of each kind."""
        found = []
        if self._options.scaling != "strong":
            found.append(series_of(self._rounds(divided=False)))
        if any(start.divide > 1 for start in self._found):
            found.append(series_of(self._rounds(divided=True)))
        return found

    def notes(self) -> list[str]:
        """What the reader has to know."""
        found = []
        if self._options.scaling != "weak" and self._why_not:
            found.append(f"Strong scaling is left out: {self._why_not}; {_HOW_STRONG}.")
        elif self._divides_by_itself():
            found.append(_BY_ITSELF)
        starts = self._found.values()
        left_out = dict.fromkeys(name for each in starts for name in each.left_out)
        if left_out:
            found.append(
                f"Left out of the measured fit: {', '.join(left_out)}. What they cost is not "
                "in these figures."
            )
        shortest = min(each.seconds for each in starts)
        if shortest < _SHORT_SECONDS:
            found.append(
                f"The measured steps of a start took only {shortest:.2g} s, in which much happens "
                f"by chance: --steps {math.ceil(self._options.steps * _SHORT_SECONDS / shortest)} "
                "would say more."
            )
        return found

    def _rounds(self, *, divided: bool) -> list[dict[int, Figures]]:
        """The starts of one kind; those of the fewest ranks are of both."""
        fewest = self._options.sizes[0]
        rounds: list[dict[int, Figures]] = [{} for _ in range(self._options.rounds)]
        for start, figures in self._found.items():
            if start.ranks == fewest or divided == (start.divide > 1):
                rounds[start.round - 1][start.ranks] = figures
        return rounds

    def _divides_by_itself(self) -> bool:
        rows = {s.ranks: f.rows_of_a_step for s, f in self._found.items() if s.divide == 1}
        return len(rows) > 1 and kind_of(rows) == STRONG

    def _require_strong(self) -> None:
        if self._options.scaling == "strong" and self._why_not:
            raise CommandError(
                f"Strong scaling can't be measured: {self._why_not}.",
                f"{_HOW_STRONG}, or measure weak scaling: --scaling weak",
            )

    def _require_same_batch(self, start: Start, found: Figures) -> None:
        first = next(f for s, f in self._found.items() if s.ranks == self._options.sizes[0])
        rows = {first.ranks: first.rows_of_a_step, start.ranks: found.rows_of_a_step}
        if kind_of(rows) != STRONG:
            raise CommandError(
                f"With {start}, a step has {found.rows_of_a_step:.0f} rows, and with {first.ranks} "
                f"{first.rows_of_a_step:.0f}, so this is no strong scaling: the script may divide "
                "its batch by the ranks itself.",
                "measure it as it is: --scaling weak",
            )


def _new_folder(output: Path | None) -> Path:
    folder = output or _DEFAULT_FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    if (folder / "starts").exists():
        raise CommandError(
            f"{folder} holds a measurement already.", "name another folder with --output"
        )
    try:
        (folder / "starts").mkdir(parents=True)
    except OSError as error:
        raise CommandError(
            f"Nothing can be written to {folder}: {error.strerror}.",
            "name another folder with --output",
        ) from error
    return folder.resolve()


def _report(result: Result, folder: Path, *, prints_json: bool) -> None:
    (folder / "scaling.json").write_text(as_json(result) + "\n")
    picture = folder / "scaling.png" if can_draw() else None
    if picture is not None:
        draw(result, picture)
    (folder / "scaling.html").write_text(page(result, picture))
    if prints_json:
        click.echo(as_json(result))
        return
    console = Console()
    if not console.is_terminal:  # a file has room for a whole row
        console = Console(width=_COLUMNS, soft_wrap=True)
    for series in result.series:
        for grid in grids(series):
            console.print(rich_table(grid))
    for sentence in sentences(result):
        console.print(f"- {sentence}", markup=False, highlight=False)
    if picture is None:
        said = "- No picture: it needs matplotlib (pip install 'hvdkit[plot]')."
        console.print(said, markup=False, highlight=False)
    console.print(f"The report: {folder / 'scaling.html'}", markup=False, highlight=False)
