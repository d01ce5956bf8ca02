"""Tensors as bytes: little-endian, row-major; text with its length before each element.

Source: Triton's binary tensor data extension
(https://github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from hvdkit.serving.datatypes import TEXT, numpy_dtype
from hvdkit.serving.problems import malformed

_LENGTH = struct.Struct("<I")


def to_array(name: str, data: memoryview, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """The array that some bytes are.

    Args:
        name: the tensor's, for messages.
        data: its bytes.
        datatype: the protocol's name.
        shape: sizes that are within the limits.

    Returns:
        An array that can't be written to; object arrays of bytes for text.

    Raises:
        Problem: the bytes are not those of such a tensor.

    Example:
        >>> to_array("x", memoryview(bytes([1, 2])), "UINT8", [2])
        array([1, 2], dtype=uint8)
    """
    count = math.prod(shape)
    if datatype == TEXT:
        return _texts(name, data, count).reshape(shape)
    dtype = numpy_dtype(datatype)
    if len(data) != count * dtype.itemsize:
        raise malformed(
            f"input {name!r} of the shape {list(shape)} needs {count * dtype.itemsize} bytes, "
            f"not {len(data)}."
        )
    if datatype == "BOOL" and count and np.frombuffer(data, np.uint8).max() > 1:
        raise malformed(f"input {name!r} is BOOL, but holds bytes that are neither 0 nor 1.")
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)


def to_bytes(array: np.ndarray) -> bytes:
    """The bytes of an array; object arrays hold bytes."""
    if array.dtype == object:
        return b"".join(_LENGTH.pack(len(each)) + each for each in array.ravel())
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _texts(name: str, data: memoryview, count: int) -> np.ndarray:
    # Each has four bytes for its length: a count that can't be is seen before memory is taken.
    if len(data) < count * _LENGTH.size:
        raise malformed(f"the bytes of input {name!r} are too few for {count} texts.")
    array = np.empty(count, object)
    position = 0
    for i in range(count):
        begin = position + _LENGTH.size
        if begin > len(data):
            raise malformed(f"the bytes of input {name!r} end within a text.")
        (length,) = _LENGTH.unpack_from(data, position)
        position = begin + length
        if position > len(data):
            raise malformed(f"the bytes of input {name!r} end within a text.")
        array[i] = bytes(data[begin:position])
    if position != len(data):
        raise malformed(f"input {name!r} has bytes behind its last text.")
    return array
