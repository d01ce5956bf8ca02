"""Options of command lines that start ranks: where they run, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hvdkit_cli.options import PATH

_Command = TypeVar("_Command", bound=Callable[..., Any])

_WHERE = (
    click.option("-H", "--hosts", help="Hosts and slots, as h1:4,h2:4."),
    click.option("--hostfile", type=PATH, help="The same from a file."),
    click.option(
        "--launcher",
        type=click.Choice(["auto", "mpirun", "srun", "gloo"]),
        default="auto",
        show_default=True,
    ),
    click.option("--interface", metavar="NET", help="Network interface (eth0), or network."),
    click.option(
        "--bind",
        type=click.Choice(["auto", "core", "numa", "none"]),
        default="auto",
        show_default=True,
        help="How ranks are bound to cores.",
    ),
    click.option("-x", "variables", metavar="NAME[=VALUE]", multiple=True, help="For the ranks."),
    click.option("--oversubscribe", is_flag=True, help="Allow more ranks than slots."),
)


def where_ranks_run(command: _Command) -> _Command:
    """Give a command the options by which `Request` says where ranks run."""
    for option in reversed(_WHERE):
        command = option(command)
    return command
