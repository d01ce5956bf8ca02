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


class Finite(click.FloatRange):
    """A number in a range; "nan" is in none, though it is beyond no limit."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """See `click.ParamType`."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not finite.", param, ctx)
        return number


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
        type=Finite(min=least),
        default=default,
        show_default=True,
        help=text,
    )
