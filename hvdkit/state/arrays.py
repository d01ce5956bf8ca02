"""Plain data as arrays of numbers. Texts travel as their bytes and lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import tensorflow as tf

Arrays = dict[str, np.ndarray]

LENGTHS = ".lengths"


def equal(one: Arrays, other: Arrays) -> bool:
    """Whether two states are the same to the bit."""
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are the same to the bit."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and one.tobytes() == other.tobytes()


def is_number(dtype: Any) -> bool:
    """Whether a type is one of numbers."""
    kind = tf.as_dtype(dtype)
    return bool(kind.is_floating or kind.is_integer or kind.is_bool or kind.is_complex)


def leaves_folder(name: str) -> bool:
    """Whether a name, taken for that of a file in a folder, is one of a file somewhere else."""
    path = PurePath(name)
    return path.is_absolute() or ".." in path.parts


def text_of(name: str, texts: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that stand for an array of text, by name."""
    encoded = [t if isinstance(t, bytes) else str(t).encode() for t in texts.reshape(-1).tolist()]
    yield name, np.frombuffer(b"".join(encoded), np.uint8)
    yield name + LENGTHS, np.array(list(map(len, encoded)), np.int64).reshape(texts.shape)


def texts_in(state: Arrays, name: str) -> np.ndarray:
    """The texts that a state holds under a name, as bytes."""
    joined, lengths = state[name].tobytes(), state[name + LENGTHS]
    ends = np.cumsum(lengths.reshape(-1)).tolist()
    texts = np.empty(len(ends), object)
    texts[:] = [joined[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    return texts.reshape(lengths.shape)


def digest(value: Any) -> str:
    """A checksum of plain data and arrays, the same on every rank for what is equal."""
    checksum = hashlib.sha256()

    def feed(item: Any) -> None:
        if isinstance(item, Mapping):
            feed(sorted(item.items()))
        elif isinstance(item, (list, tuple)):
            checksum.update(f"[{len(item)}".encode())
            for one in item:
                feed(one)
        elif isinstance(item, np.ndarray) or tf.is_tensor(item):
            array = np.asarray(item)
            checksum.update(f"{array.dtype}{array.shape}".encode())
            feed(array.tolist()) if array.dtype.hasobject else checksum.update(array.tobytes())
        else:
            checksum.update(repr(item).encode() + b";")

    feed(value)
    return checksum.hexdigest()[:16]
