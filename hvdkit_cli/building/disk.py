"""Refuse to start a build that the disk has no room for."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from hvdkit_cli.errors import CommandError

MIB = 2**20


def require_space(needs: Iterable[tuple[Path, int, str]]) -> None:
    """Check that each folder's file system has room; needs on one file system add up.

    Args:
        needs: A folder (it need not exist yet), the bytes needed there, and what to do instead
            of freeing them.

    Raises:
        CommandError: There is too little room.
    """
    totals: dict[int, tuple[Path, int, str]] = {}
    for folder, size, remedy in needs:
        existing = _existing(folder)
        device = os.stat(existing).st_dev
        if device in totals:
            first, before, first_remedy = totals[device]
            totals[device] = (first, before + size, first_remedy)
        else:
            totals[device] = (existing, size, remedy)
    for folder, size, remedy in totals.values():
        free = shutil.disk_usage(folder).free
        if free < size:
            raise CommandError(
                f"There is no disk space for the build: {folder} has {free // MIB} MiB free, "
                f"{size // MIB} MiB are needed.",
                f"free some, or {remedy}",
            )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
