"""The file format: a header in JSON, then the bytes of the arrays. Nothing in it can be run.

    8 bytes      HVDKIT1 and a newline
    8 bytes      length of the header, little-endian
    header       {"arrays": [{"name", "dtype", "shape", "bytes"}, ...], "values": {...}}
    the rest     the arrays' bytes in that order, in C order, little-endian

Types are stored by name, so bfloat16 and float8, which NumPy's own format does not know, keep
theirs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hvdkit.errors import CheckpointError

MAGIC = b"HVDKIT1\n"
_LENGTH_BYTES = 8


@dataclass
class Contents:
    """What one file of a checkpoint holds.

    Attributes:
        arrays: name to array.
        values: plain data: what JSON can hold.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def buffers(self) -> Iterator[Any]:
        """The bytes of the file."""
        entries = [
            {
                "name": name,
                "dtype": array.dtype.name,
                "shape": array.shape,
                "bytes": array.nbytes,
            }
            for name, array in self.arrays.items()
        ]
        header = json.dumps({"arrays": entries, "values": self.values}).encode()
        yield MAGIC
        yield len(header).to_bytes(_LENGTH_BYTES, "little")
        yield header
        for array in self.arrays.values():
            # As bytes: the types that NumPy does not know export no buffer.
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def parse(data: bytes, source: str) -> Contents:
    """Read the bytes of a file.

    Args:
        data: all of them.
        source: the file's name, for messages.

    Raises:
        CheckpointError: it is no such file, or it is damaged.
    """
    if not data.startswith(MAGIC):
        raise CheckpointError(f"{source} is no file of a checkpoint.")
    start = len(MAGIC) + _LENGTH_BYTES
    end = start + int.from_bytes(data[len(MAGIC) : start], "little")
    arrays = {}
    try:
        header = json.loads(data[start:end])
        for entry in header["arrays"]:
            arrays[str(entry["name"])] = _array(data, end, entry)
            end += int(entry["bytes"])
        return Contents(arrays, dict(header["values"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{source} is damaged: {error}") from error


def _array(data: bytes, offset: int, entry: dict[str, Any]) -> np.ndarray:
    import tensorflow as tf  # here, so that a checkpoint can be verified without it

    dtype = tf.as_dtype(str(entry["dtype"]))
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype.is_complex):
        raise ValueError(f"an array of type {dtype.name}")
    shape = [int(length) for length in entry["shape"]]
    count = math.prod(shape)
    if count * dtype.size != entry["bytes"] or min(shape, default=0) < 0:
        raise ValueError(f"{entry['name']} has another length than its shape")
    numbers = np.frombuffer(data, dtype.as_numpy_dtype, count, offset)
    return numbers.reshape(shape)
