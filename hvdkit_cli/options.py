"""What the options of several commands have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

HELP = {"help_option_names": ["-h", "--help"]}
POSITIVE = click.IntRange(min=1)
PATH = click.Path(path_type=Path)

prints_json = click.option("--json", "json_", is_flag=True, help="Print JSON in place of tables.")


def seconds(
    name: str, default: float, text: str, least: float = 1
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option for a time.

    Args:
        name: as it is written, such as "--timeout".
        default: seconds.
        text: of the help.
        least: the shortest that is taken.
    """
    return click.option(
        name,
        type=click.FloatRange(min=least),
        callback=_finite,
        default=default,
        show_default=True,
        help=text,
    )


def _finite(context: click.Context, option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds.")
    return value
