"""The folder with the models: DIR/<model>/<version>/, versions being whole numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_SUFFIXES = (".onnx", ".tflite", ".keras")
_SAVED_MODEL = "saved_model.pb"
_MOST_FILES = 10_000

LAYOUT = "DIR/<model>/<version>/, such as models/digits/1/model.onnx"


@dataclass(frozen=True)
class Found:
    """A version as it is in the folder.

    Attributes:
        number: of the version.
        folder: its own.
        file: the model in it: a file, or "." or a folder for a SavedModel; None: there is none.
        problem: why there is none.
        mark: changes whenever a file in the folder does.
    """

    number: int
    folder: Path
    file: Path | None
    problem: str
    mark: tuple[object, ...]

    @property
    def platform(self) -> str:
        """What the protocol calls project and format of a model."""
        suffix = "" if self.file is None else self.file.suffix
        return {
            ".onnx": "onnx_onnxv1",
            ".tflite": "tensorflow_tflite",
            ".keras": "keras_keras",
        }.get(suffix, "tensorflow_savedmodel")


@dataclass(frozen=True)
class Looked:
    """What a look at the folder of all models found.

    Attributes:
        models: the versions of each model.
        unreadable: models whose own folder can't be read, and why.
    """

    models: Mapping[str, Mapping[int, Found]]
    unreadable: Mapping[str, str]


def look(folder: Path) -> Looked:
    """The models in a folder, and the versions of each.

    What has a name of another kind is nobody's: a version that is still being copied can have
    one, such as "3.copying", until it is whole.

    Raises:
        OSError: the folder can't be read.
    """
    models, unreadable = {}, {}
    for model in sorted(folder.iterdir()):
        if not _MODEL.fullmatch(model.name):
            continue
        try:
            if model.is_dir():
                models[model.name] = _versions(model)
        except OSError as error:  # the other models have nothing to do with it
            unreadable[model.name] = str(error.strerror)
    return Looked(models, unreadable)


def _versions(model: Path) -> dict[int, Found]:
    versions = [each for each in model.iterdir() if _VERSION.fullmatch(each.name)]
    return {int(each.name): _readable(each) for each in versions if each.is_dir()}


def _readable(folder: Path) -> Found:
    """A version; one that can't be read is the problem of its model, and not of the others."""
    try:
        return _version(folder)
    except OSError as error:
        problem = f"it can't be read: {error.strerror} ({error.filename})"
        return Found(int(folder.name), folder, None, problem, ())


def _version(folder: Path) -> Found:
    mark: list[tuple[object, ...]] = []
    for path, _, names in os.walk(folder):
        if len(mark) > _MOST_FILES:  # each look would take that long, such as at a link to /
            problem = f"there are more than {_MOST_FILES} files in it"
            return Found(int(folder.name), folder, None, problem, ())
        for name in names:
            try:
                stat = os.stat(os.path.join(path, name))
            except FileNotFoundError:
                continue  # gone meanwhile; the next look tells
            mark.append((os.path.join(path, name), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    candidates = [path for path in sorted(folder.iterdir()) if _is_model(path)]
    if (folder / _SAVED_MODEL).is_file():
        candidates.append(folder)
    names = [path.name for path in candidates]
    problem = ""
    if not candidates:
        problem = f"there is no SavedModel in it, and no file that ends in {', '.join(_SUFFIXES)}"
    elif len(candidates) > 1:
        problem = f"there are several models in it: {', '.join(names)}"
    file = None if problem else candidates[0].relative_to(folder)
    return Found(int(folder.name), folder, file, problem, tuple(sorted(mark)))


def _is_model(path: Path) -> bool:
    if path.is_dir():
        return (path / _SAVED_MODEL).is_file()
    # Not what copying programs and file systems put beside it, nor pipes, which would never end.
    return path.suffix in _SUFFIXES and path.is_file() and not path.name.startswith(".")
