"""What data holds, in a few numbers: do all ranks read the same?

Of an array a few rows are looked at, of each row a few elements. Rows of integers and of text have
to be equal; those of floats to a tolerance, since hosts of different kinds may compute the last
bits of a preprocessing differently.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from hvdkit.engine import ProcessSet, RankMismatchError, allgather_object, topology

SAMPLED_ROWS = 64
_SAMPLED_ELEMENTS = 256
_GOLDEN = 0.6180339887498949  # its multiples are spread evenly: each element counts differently
_FILE = b"a file: "

REMEDY = (
    "hvd.shard divides the data, so every rank has to hold all of it, the same rows in the same "
    "order: give what shuffles or splits it a seed (as in train_test_split(..., random_state=0)), "
    "and let all ranks read the same files. hvd.init(consistency_check=False) leaves this check out"
)


class Content(Protocol):
    """Something about data that is the same on all ranks that read the same."""

    def difference(self, other: Any, rank: int, other_rank: int) -> str | None:
        """How another rank's differs, in words; None where it does not."""
        ...


@dataclass(frozen=True)
class Fact:
    """Something to be equal.

    Attributes:
        name: what it is.
        value: can be compared, pickled and printed.
        remedy: what to do where it differs; None for the general advice.
    """

    name: str
    value: Any
    remedy: str | None = None

    def difference(self, other: Any, rank: int, other_rank: int) -> str | None:
        """See `Content`."""
        if self == other:
            return None
        if not isinstance(other, Fact) or other.name != self.name:
            return f"rank {rank} has {self.name}, where rank {other_rank} has {other.name}"
        return f"{self.name}: {self.value} on rank {rank}, but {other.value} on rank {other_rank}"


@dataclass(frozen=True)
class Sample:
    """A few rows of an array.

    Attributes:
        name: which array it is, with its type and shape.
        rows: the numbers of the rows.
        values: of each row, what has to be equal (bytes), or nearly (three numbers).
        tolerance: how far numbers may be apart, in parts of the row's size.
    """

    name: str
    rows: tuple[int, ...]
    values: tuple[bytes | tuple[float, float, int], ...]
    tolerance: float = 0.0

    def difference(self, other: Any, rank: int, other_rank: int) -> str | None:
        """See `Content`."""
        if not isinstance(other, Sample) or (self.name, self.rows) != (other.name, other.rows):
            return f"rank {rank} has {self.name}, where rank {other_rank} has {other.name}"
        for row, mine, theirs in zip(self.rows, self.values, other.values, strict=True):
            if not self._equal(mine, theirs):
                text = f"row {row} of {self.name} on rank {rank} is another on rank {other_rank}"
                return text + _file_names(mine, theirs)
        return None

    @property
    def tells_rows_apart(self) -> bool:
        """Whether its rows differ from each other."""
        return len(set(self.values)) > 1

    def _equal(self, mine: Any, theirs: Any) -> bool:
        if isinstance(mine, bytes) or isinstance(theirs, bytes):
            return bool(mine == theirs)
        limit = self.tolerance * max(mine[1], theirs[1])
        return bool(mine[2] == theirs[2] and abs(mine[0] - theirs[0]) <= limit)


def samples_of(data: Any, name: str) -> list[Sample]:
    """A sample of each array of a structure; of ragged and sparse tensors, of their components.

    Args:
        data: arrays and tensors with a row for each sample, and None.
        name: what messages call it; the arrays are numbered.
    """
    arrays = [a for a in tf.nest.flatten(data, expand_composites=True) if np.ndim(a)]
    names = [name] if len(arrays) == 1 else [f"{name}, part {i}" for i in range(len(arrays))]
    return [sample_of(array, each) for array, each in zip(arrays, names, strict=True)]


def sampled_rows(count: int) -> tuple[int, ...]:
    """The numbers of the rows that are looked at, of so many: the first and the last among them."""
    spread = np.linspace(0, count - 1, min(count, SAMPLED_ROWS)) if count else np.zeros(0)
    return tuple(int(row) for row in spread)


def sample_of(array: Any, name: str) -> Sample:
    """A few rows of an array, the first and the last among them; no others are read.

    Args:
        array: has a length, and gives a row for an index.
        name: what messages call it.
    """
    rows = sampled_rows(len(array))
    dtype = getattr(array, "dtype", None)
    kind = getattr(dtype, "name", dtype) or type(array).__name__
    shape = "x".join(map(str, getattr(array, "shape", (len(array),))))
    narrow = getattr(dtype, "itemsize", getattr(dtype, "size", 8)) <= 2
    if isinstance(array, tf.Tensor):
        picked = list(tf.gather(array, rows).numpy()) if rows else []
    else:
        picked = [array[row] for row in rows]
    values = tuple(_value(np.asarray(row)) for row in picked)
    return Sample(f"{name} ({kind} {shape})", rows, values, 1e-2 if narrow else 1e-5)


def first_difference(
    own: Sequence[Content], other: Sequence[Content], rank: int, other_rank: int
) -> tuple[str, str | None] | None:
    """How the data of two ranks differs, and what to do; None where it does not."""
    for mine, theirs in zip(own, other, strict=False):
        text = mine.difference(theirs, rank, other_rank)
        if text:
            return text, getattr(mine, "remedy", None)
    if len(own) == len(other):
        return None
    return f"rank {rank} reads {len(own)} things, rank {other_rank} {len(other)}", None


def require_same_contents(look: Callable[[], Sequence[Content]], process_set: ProcessSet) -> None:
    """Raise on every rank unless the ranks read the same data; all of them call it.

    Args:
        look: gives what this rank reads. It is called again where the ranks differ: what is
            another at the second look is drawn at random, as in augmentation, and may differ.
        process_set: the ranks that divide the data.

    Raises:
        RankMismatchError: on every rank; it names the ranks, what differs, and the remedy.
    """
    first = list(look())
    everyone = allgather_object(first, name="hvdkit.data_contents", process_set=process_set)
    if not _differences(everyone, process_set):
        return
    second = list(look())
    drawn = len(first) == len(second) and [
        mine.difference(again, 0, 0) is not None for mine, again in zip(first, second, strict=True)
    ]
    looks = allgather_object(drawn, name="hvdkit.data_drawn", process_set=process_set)
    if all(looks) and len({len(look) for look in looks}) == 1:
        kept = [i for i, draws in enumerate(zip(*looks, strict=True)) if not any(draws)]
        everyone = [[contents[i] for i in kept] for contents in everyone]
    found = _differences(everyone, process_set)
    if not found:
        return
    text, remedy = next(iter(found.values()))
    more = list(found)[1:]
    others = f" (and so it is on rank {', '.join(map(str, more))})" if more else ""
    raise RankMismatchError(
        f"the ranks do not hold the same data: {text}{others}. {remedy or REMEDY}."
    )


def _differences(
    everyone: Sequence[Sequence[Content]], process_set: ProcessSet
) -> dict[int, tuple[str, str | None]]:
    """How the data of each rank differs from that of the first; of those only that do."""
    ranks = topology.process_set_ranks(process_set)
    compared = {
        rank: first_difference(everyone[0], other, ranks[0], rank)
        for rank, other in zip(ranks[1:], everyone[1:], strict=True)
    }
    return {rank: found for rank, found in compared.items() if found is not None}


def _value(row: np.ndarray) -> bytes | tuple[float, float, int]:
    flat = row.reshape(-1)
    if flat.size > _SAMPLED_ELEMENTS:
        flat = flat[np.linspace(0, flat.size - 1, _SAMPLED_ELEMENTS).astype(int)]
    if flat.dtype.kind == "c":
        flat = np.stack([flat.real, flat.imag], axis=-1).reshape(-1)
    if flat.dtype.kind in "OSUT":
        texts = [_text(value) for value in flat.tolist()]
        return texts[0] if len(texts) == 1 and _is_file(texts[0]) else _hash(b"\0".join(texts))
    if flat.dtype.kind in "biumM" or flat.dtype.names:
        return _hash(flat.tobytes())
    numbers = flat.astype(np.float64)  # floats, bfloat16 and the like among them
    finite = np.isfinite(numbers)
    numbers = np.where(finite, numbers, 0.0)
    weights = 1 + (np.arange(1, numbers.size + 1) * _GOLDEN) % 1
    return float(weights @ numbers), float(np.abs(numbers).sum()), int((~finite).sum())


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def _text(value: Any) -> bytes:
    """What of an element of an object array is compared; of a file, its name and its size.

    Ranks may have copies of the same files in different folders.
    """
    if isinstance(value, bytes):
        text = value
    elif isinstance(value, str):
        text = value.encode(errors="surrogateescape")
    elif isinstance(value, (bool, int, float, np.generic)) or value is None:
        return repr(value).encode()
    else:
        return type(value).__name__.encode()
    if os.sep.encode() in text and os.path.isfile(text):
        return _FILE + os.path.basename(text) + b", %d bytes" % os.path.getsize(text)
    return text


def _is_file(value: Any) -> bool:
    return isinstance(value, bytes) and value.startswith(_FILE)


def _file_names(*values: Any) -> str:
    if not all(map(_is_file, values)):
        return ""
    mine, theirs = (value.removeprefix(_FILE).decode(errors="replace") for value in values)
    return f" ({mine}; {theirs})"
