"""The command line of `hvdkit scale`. What it needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hvdkit_cli.options import HELP, PATH, POSITIVE, prints_json, seconds
from hvdkit_cli.run.options import where_ranks_run


@click.command(
    "scale",
    context_settings={**HELP, "allow_interspersed_args": False},
)
@click.option("--ranks", "sizes", required=True, metavar="N,M,...", help="As in 1,2,4.")
@click.option(
    "--scaling",
    type=click.Choice(["both", "weak", "strong"]),
    default="both",
    show_default=True,
    help="weak: the script as it is; strong: with the batch that it has on the fewest ranks.",
)
@click.option(
    "--batch",
    type=POSITIVE,
    metavar="ROWS",
    help="Rows of a rank in a batch on the fewest ranks, for {batch} in the command: where the "
    "script makes its batches itself.",
)
@click.option(
    "--steps",
    type=POSITIVE,
    default=50,
    show_default=True,
    help="Steps of fit that are measured in each start.",
)
@click.option(
    "--warm-up",
    type=POSITIVE,
    default=10,
    show_default=True,
    help="Steps before these, which are left out.",
)
@click.option(
    "--rounds",
    type=POSITIVE,
    default=3,
    show_default=True,
    help="How often each number of ranks is started.",
)
@seconds("--time-limit", 600.0, "Seconds that a start may take.")
@click.option(
    "--output",
    type=PATH,
    help="Folder for the report, which all hosts share. Default: a new one in hvdkit-scale.",
)
@prints_json
@where_ranks_run
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def scale_command(
    sizes: str,
    command: tuple[str, ...],
    scaling: str,
    batch: int | None,
    steps: int,
    warm_up: int,
    rounds: int,
    time_limit: float,
    output: Path | None,
    json_: bool,
    **asked: Any,
) -> None:
    """Measure how well a script scales: --ranks 1,2,4 [options] -- COMMAND.

    Starts the script on each number of ranks in turn, measures some steps of its fit, and ends it
    there. In the command, {ranks} is replaced by their number. See docs/scaling.md.
    """
    from hvdkit_cli.run.request import Request
    from hvdkit_cli.scale.command import Options, scale
    from hvdkit_cli.scale.plan import parse_sizes

    options = Options(
        parse_sizes(sizes), scaling, rounds, steps, warm_up, batch, time_limit, output, json_
    )
    scale(options, Request(command, **asked))
