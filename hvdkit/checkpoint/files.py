"""Files that exist whole or not at all, also after a crash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PIECE = 16 * 1024 * 1024


@dataclass(frozen=True)
class Digest:
    """What a file has to hold.

    Attributes:
        bytes: its length.
        sha256: the checksum of its contents, in hexadecimal.
    """

    bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """A dict for a manifest."""
        return asdict(self)


def write_atomically(path: Path, buffers: Iterable[Any]) -> Digest:
    """Write a file so that its name never stands for less than all of it.

    The contents reach the disk (fsync) under another name before the file gets its own.

    Args:
        path: the file; its folder exists.
        buffers: bytes-like objects, one after the other.

    Raises:
        OSError: the disk is full, or the folder can't be written.
    """
    checksum, length = hashlib.sha256(), 0
    unfinished = path.with_name(path.name + ".part")
    with open(unfinished, "wb") as file:
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            for start in range(0, len(view), _PIECE):
                checksum.update(view[start : start + _PIECE])
                file.write(view[start : start + _PIECE])
            length += len(view)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    sync_folder(path.parent)
    return Digest(length, checksum.hexdigest())


def digest_of(path: Path) -> Digest:
    """The length and the checksum of a file, read block by block."""
    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256")
        return Digest(file.tell(), checksum.hexdigest())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
