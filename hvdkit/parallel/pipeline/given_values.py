"""Values that variables are given while a model is built, in a file where they are many."""

from __future__ import annotations

import tempfile
import weakref
from typing import Any

import numpy as np
import tensorflow as tf

_IN_MEMORY = 1 << 24


class GivenValues:
    """Values of variables that have none of their own yet.

    Beyond 16 MiB they are in a temporary file (in the folder that `TMPDIR` names), as those of all
    stages together may be more than a rank has memory for.
    """

    def __init__(self) -> None:
        # It ends with this object.
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self._places: dict[int, tuple[Any, int]] = {}
        self._made: list[weakref.ref[Any]] = []

    def __contains__(self, variable: Any) -> bool:
        return id(variable) in self._places

    def put(self, variable: Any, value: np.ndarray) -> None:
        """Keep a value for a variable, instead of the one before."""
        data = np.ascontiguousarray(value, _type(variable)).reshape(-1).view(np.uint8)
        if variable not in self:
            self._places[id(variable)] = variable, self._file.seek(0, 2)
        self._file.seek(self._places[id(variable)][1])
        self._file.write(data.tobytes())

    def of(self, variable: Any) -> np.ndarray:
        """The value that was kept last for a variable."""
        self._file.seek(self._places[id(variable)][1])
        shape, dtype = tuple(variable._shape), np.dtype(_type(variable))
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return np.frombuffer(self._file.read(size), dtype).reshape(shape)

    def assigned(self) -> list[Any]:
        """The variables for which there are values, in the order in which they first got one."""
        return [variable for variable, _ in self._places.values()]

    def made(self, variable: Any) -> None:
        """Note a variable that was made without a value."""
        self._made.append(weakref.ref(variable))

    def still_made(self) -> list[Any]:
        """The variables that were made without a value, and that somebody still has."""
        return [variable for one in self._made if (variable := one()) is not None]


def _type(variable: Any) -> Any:
    return tf.as_dtype(variable._dtype).as_numpy_dtype
