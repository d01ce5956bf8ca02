"""Files of models that exist complete or not at all, also where all ranks write to one path.

Keras writes a model into the file that it is to be. Two ranks that do so at once leave a mixture,
and one that is killed leaves half. Here each writes beside the path, and puts what is complete in
its place in one step: the last one stays. That needs no word between ranks, so any of them may
save, all or one, to one path or to a path each, and none waits for another.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from hvdkit.engine import is_initialized
from hvdkit.keras_internals import is_remote_path, legacy_h5_format, saving_lib
from hvdkit.patches import Patch
from hvdkit.watch.slices import CHECKPOINTS, notes


class _Part(str):
    """A path that is shown to users as the one that it will have."""

    shown: str

    def __format__(self, spec: str) -> str:
        return format(self.shown, spec)


def write_beside(
    original: Callable[..., Any], what: Any, filepath: Any, *args: Any, **kw: Any
) -> Any:
    """What Keras's functions that write a model do instead.

    Args:
        original: Keras's function.
        what: what it writes.
        filepath: a file or folder; one that is remote, or no path, is left to Keras.
        *args: the function's.
        **kw: the function's.
    """
    target = _local_target(filepath)
    if target is None or not is_initialized():
        return original(what, filepath, *args, **kw)
    with _folder_beside(target) as folder:
        part = _Part(folder / target.name)
        part.shown = str(filepath)
        with notes.times(CHECKPOINTS, f"writing {target.name}"):
            result = original(what, part, *args, **kw)
        # What names the others is the last to come.
        for written in sorted(folder.iterdir(), key=lambda path: path.suffix == ".json"):
            _put(written, target.with_name(written.name))
    return result


def write_in_new_folder(
    original: Callable[..., Any], what: Any, filepath: Any, *args: Any, **kw: Any
) -> Any:
    """`write_beside` for functions that make the folder of a file where there is none."""
    is_path = isinstance(filepath, (str, os.PathLike))
    if is_path and not is_remote_path(str(filepath)):
        os.makedirs(os.path.dirname(os.path.realpath(filepath)), exist_ok=True)
    return write_beside(original, what, filepath, *args, **kw)


def _local_target(filepath: Any) -> Path | None:
    """Where to write; None if it can't be written beside."""
    if not isinstance(filepath, (str, os.PathLike)) or is_remote_path(str(filepath)):
        return None
    target = Path(os.path.realpath(filepath))  # a link stays one
    special = target.exists() and not (target.is_file() or target.is_dir())
    return target if os.access(target.parent, os.W_OK) and not special else None


@contextlib.contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A folder of this rank's own on the disk of the target, gone afterwards."""
    folder = tempfile.mkdtemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder)


def _put(written: Path, target: Path) -> None:
    if written.is_dir() and target.is_dir():
        _swap(written, target)
        return
    if target.is_file():
        shutil.copymode(target, written)
    os.replace(written, target)


def _swap(written: Path, target: Path) -> None:
    """Put a folder in the place of another; what only the other had stays there."""
    own = {entry.name for entry in written.iterdir()}
    taken_away: list[Path] = []
    while written.exists():
        before = written.with_name(f"{written.name}.{len(taken_away)}")
        with contextlib.suppress(FileNotFoundError):  # another rank is at the same
            os.rename(target, before)
            taken_away.append(before)
        try:
            os.rename(written, target)
        except OSError:
            if not target.is_dir():  # else another rank has put its own there
                raise
    for entry in [entry for before in taken_away for entry in before.iterdir()]:
        if entry.name not in own and not (target / entry.name).exists():
            os.rename(entry, target / entry.name)


_COMPLETE = "files of models are there complete or not at all, whichever ranks write them"

PATCHES = (
    Patch(saving_lib, "save_model", write_beside, _COMPLETE),
    Patch(saving_lib, "save_weights_only", write_beside, _COMPLETE),
    Patch(legacy_h5_format, "save_model_to_hdf5", write_in_new_folder, _COMPLETE),
    # Making one gives an object of the class that writes, which depends on Keras's version.
    Patch(type(keras.export.ExportArchive()), "write_out", write_in_new_folder, _COMPLETE),
)
