"""Where ranks can run: a kind of place a file, each with `detect`; the first that is there counts.

A new scheduler is a new file here, and a line in `PLACES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hvdkit_cli.errors import CommandError
from hvdkit_cli.run.places import given, machine, pbs, slurm
from hvdkit_cli.run.request import Place, Request


class Kind(Protocol):
    """A kind of place."""

    def detect(self, request: Request, environ: Mapping[str, str]) -> Place | None:
        """The place, or None where this is none of its kind."""


PLACES: tuple[Kind, ...] = (given, slurm, pbs, machine)


def find_place(request: Request, environ: Mapping[str, str]) -> Place:
    """Where the ranks can run.

    Raises:
        CommandError: the hosts that are given, or the scheduler's, can't be read.
    """
    found = (kind.detect(request, environ) for kind in PLACES)
    place = next((place for place in found if place is not None), None)
    if place is None:
        raise CommandError("There is no place to run.", "name hosts with -H")
    return place
