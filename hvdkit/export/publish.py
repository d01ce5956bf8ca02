"""Files and folders that are there only if they are right: written beside, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hvdkit.errors import ExportError


@contextlib.contextmanager
def published(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A path to write to, which becomes the target where nothing was raised.

    Args:
        target: a file or folder.
        overwrite: whether one that is there already is replaced. A folder is only if it is a
            SavedModel, or empty: one of that name may hold checkpoints, or all of a user's work.

    Raises:
        ExportError: it is there already, or can't be written.
    """
    if _holds_something_else(target):
        raise ExportError(f"{target} is a folder of other things, which is not replaced.")
    if os.path.lexists(target) and not overwrite:
        raise ExportError(f"{target} is there already: name another, or overwrite it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(
            tempfile.mkdtemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
        )
    except OSError as error:
        raise ExportError(f"{target} can't be written: {error}") from error
    try:
        part = folder / target.name
        yield part
        _put(part, target, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _holds_something_else(target: Path) -> bool:
    return target.is_dir() and not (target / "saved_model.pb").is_file() and any(target.iterdir())


def _put(part: Path, target: Path, folder: Path) -> None:
    part.chmod(_mode_for_all(part))
    before = folder / "before"
    try:
        if target.is_dir() and not target.is_symlink():
            os.rename(target, before)
        os.replace(part, target)
    except OSError as error:
        if before.exists() and not target.exists():
            os.rename(before, target)
        raise ExportError(f"{target} can't be written: {error}") from error


def _mode_for_all(part: Path) -> int:
    """What a file or folder may be used for by default; one for temporary things is private."""
    mask = os.umask(0)
    os.umask(mask)
    return (0o777 if part.is_dir() else 0o666) & ~mask
