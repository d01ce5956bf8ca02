"""Rows of a rank, on their way from its keeper: a file of NumPy's for each column.

The keeper can read what the system holds, and the rank's process can not. A rank asks for the rows
of its number among so many ranks, as these may change; the keeper answers with a folder. Columns
of numbers are memory-mapped.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Client, Listener
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hvdkit.errors import HvdkitError

Serve = Callable[[str, int, int], Mapping[str, np.ndarray]]
"""From the name of data, a rank's number and the number of ranks, to the columns of its rows."""

_SOCKET = "HVDKIT_ROWS"
_NAMES = "columns.json"


class RowServer:
    """Answers a rank that asks for its rows; in a `with` block.

    Args:
        folder: where the files are written.
        serve: reads the rows.
    """

    def __init__(self, folder: Path, serve: Serve) -> None:
        self._folder = folder
        self._serve = serve
        self._latest: dict[str, Path] = {}
        self._listener = Listener(str(folder / "rows"), "AF_UNIX")
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def environment(self) -> dict[str, str]:
        """What the rank's process has to know."""
        return {_SOCKET: str(self._listener.address)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()

    def _answer(self) -> None:
        while True:
            try:
                line = self._listener.accept()
            except OSError:  # closed
                return
            with line, suppress(EOFError, ConnectionError):  # a rank that has ended meanwhile
                line.send(self._written(*line.recv()))

    def _written(self, name: str, rank: int, size: int) -> tuple[bool, str]:
        try:
            columns = self._serve(name, rank, size)
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            write_columns(folder, columns)
            if name in self._latest:  # what the rank has mapped stays as long as it does
                shutil.rmtree(self._latest[name])
            self._latest[name] = folder
        except HvdkitError as error:
            return False, str(error)
        except Exception as error:  # to be raised on the rank
            return False, f"{type(error).__name__}: {error}"
        return True, str(folder)


def write_columns(folder: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns into an empty folder."""
    for number, array in enumerate(columns.values()):
        np.save(folder / f"{number}.npy", array, allow_pickle=True)
    (folder / _NAMES).write_text(json.dumps(list(columns)))


def read_columns(folder: Path) -> dict[str, np.ndarray]:
    """Read what `write_columns` wrote."""
    names = json.loads((folder / _NAMES).read_text())
    return {name: _loaded(folder / f"{number}.npy") for number, name in enumerate(names)}


def own_columns(name: str, rank: int, size: int) -> dict[str, np.ndarray]:
    """The rows of this rank, from its keeper; called in the rank's process.

    Raises:
        HvdkitError: this process has no keeper with rows, or they can't be read.
    """
    address = os.environ.get(_SOCKET)
    if address is None:
        raise HvdkitError(
            "this job was given no data: pass datasets= to hvdkit.ray.run, or df= to "
            "hvdkit.spark.run, and call get_shard() in the function that these run."
        )
    with Client(address, "AF_UNIX") as line:
        line.send((name, rank, size))
        found, text = line.recv()
    if not found:
        raise HvdkitError(f"the rows of rank {rank} can't be read: {text}")
    return read_columns(Path(text))


def _loaded(file: Path) -> np.ndarray:
    try:
        mapped: Any = np.load(file, mmap_mode="r")
    except ValueError:  # text and other objects, which can't be mapped
        mapped = np.load(file, allow_pickle=True)
    return np.asarray(mapped)
