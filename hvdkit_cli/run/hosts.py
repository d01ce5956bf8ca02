"""Hosts, their slots, and which rank comes to which of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hvdkit_cli.errors import CommandError

_ENTRY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@-]*?)(?::([1-9]\d{0,5}))?")
_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@-]*)(?::(\d+)|.*?\sslots\s*=\s*(\d+))?(\s.*)?")


@dataclass(frozen=True)
class Host:
    """A host, and how many ranks it takes; `slots` is None where only the launcher knows."""

    name: str
    slots: int | None


def parse_hosts(text: str) -> list[Host]:
    """The hosts of `-H h1:4,h2:4`; one without a number has one slot.

    Raises:
        CommandError: it can't be read.
    """
    found = []
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise CommandError(
                f"'{entry}' in -H is not HOST or HOST:SLOTS.", "write it as -H h1:4,h2:4"
            )
        found.append(Host(match[1], int(match[2] or 1)))
    return found


def read_hostfile(path: Path) -> list[Host]:
    """The hosts of a file with `h1 slots=4` or `h1:4` a line, as MPIs have them.

    Raises:
        CommandError: it can't be read, or names no host.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise CommandError(
            f"The host file {path} can't be read: {why}.", "check the path"
        ) from error
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = []
    for line in filter(None, lines):
        match = _LINE.fullmatch(line)
        if match is None:
            raise CommandError(
                f"'{line}' in {path} names no host.", "write a host a line, as h1 slots=4"
            )
        slots = match[2] or match[3]
        if slots is not None and int(slots) == 0:
            raise CommandError(
                f"'{line}' in {path} has no slots.", "give it slots, or leave it out"
            )
        found.append(Host(match[1], int(slots) if slots else None))
    if not found:
        raise CommandError(f"The host file {path} names no host.", "write a host a line")
    return found


def total(hosts: Sequence[Host]) -> int | None:
    """All slots; None where those of a host are not known."""
    counts = [host.slots for host in hosts]
    return None if None in counts else sum(count or 0 for count in counts)


def by_rank(hosts: Sequence[Host], ranks: int) -> list[str]:
    """The host of each rank: launchers fill them in order. Empty where that is not known."""
    if total(hosts) is None:
        return []
    places = [host.name for host in hosts for _ in range(host.slots or 0)]
    return places[:ranks] if len(places) >= ranks else []


def counted(names: Sequence[str]) -> str:
    """Hosts with their numbers of ranks, in words: "h1 (2), h2 (2)"."""
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
