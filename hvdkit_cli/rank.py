"""What each rank of `hvd.run` and its kind does: call the function, and write down how it ended.

It loads neither TensorFlow nor Horovod: the function does, if it needs them.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from hvdkit_cli.launched import rank_of

CALL = "call.pkl"


@dataclass(frozen=True)
class Ended:
    """How a rank ended.

    Attributes:
        value: What the function returned, pickled; None after an error.
        error: The error, pickled; None where there was none, or it can't be pickled.
        text: The error's traceback; empty where there was none.
        time: When it ended, in seconds since the epoch.
    """

    value: bytes | None
    error: bytes | None
    text: str
    time: float


def write_call(folder: Path, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keep a call for the ranks: functions of a notebook or a script by what they are."""
    (folder / CALL).write_bytes(cloudpickle.dumps((function, args, kwargs)))


def read_ended(folder: Path, rank: int) -> Ended | None:
    """How a rank ended; None if it ended without a word."""
    file = _file(folder, rank)
    return pickle.loads(file.read_bytes()) if file.exists() else None


def main(folder: Path, number: int | None = None) -> None:
    """Call the function of this rank.

    Args:
        folder: Where the call is, and where the end is written down.
        number: What `read_ended` is asked for; default: the rank.
    """
    rank = rank_of(os.environ) if number is None else number
    if rank is None:
        raise RuntimeError("no launcher has given this process a rank.")
    try:
        function, args, kwargs = pickle.loads((folder / CALL).read_bytes())
        value = cloudpickle.dumps(function(*args, **kwargs))
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        _write(folder, rank, Ended(None, _pickled(error), text, time.time()))
        raise
    _write(folder, rank, Ended(value, None, "", time.time()))


def _pickled(error: BaseException) -> bytes | None:
    try:
        data = cloudpickle.dumps(error)
        pickle.loads(data)
    except Exception:  # whatever its class does when it is pickled
        return None
    return bytes(data)


def _write(folder: Path, rank: int, ended: Ended) -> None:
    written = _file(folder, rank).with_suffix(".part")
    written.write_bytes(pickle.dumps(ended))
    written.replace(_file(folder, rank))


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.pkl"


if __name__ == "__main__":
    # As a module of its own, so that what is pickled here can be read by the process that started.
    from hvdkit_cli import rank as this

    this.main(Path(sys.argv[1]))
