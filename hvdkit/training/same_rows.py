"""Do the ranks of a `fit` train on the same rows? Then they do the same work, several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from hvdkit.data.adapter import ShardedAdapter
from hvdkit.data.contents import Content, Fact, Sample, first_difference, samples_of
from hvdkit.data.peek import peek
from hvdkit.keras_internals import (
    ArrayDataAdapter,
    GeneratorDataAdapter,
    PyDatasetAdapter,
    TFDatasetAdapter,
)


@dataclass(frozen=True)
class Seen:
    """What is seen of the data of a rank without taking anything from it.

    Attributes:
        kind: the kind of data.
        contents: what it holds; empty where that can't be seen.
    """

    kind: str
    contents: Sequence[Content]


def seen_of(adapter: Any, sharded: bool) -> Seen:
    """Look at the data that Keras reads for a `fit`.

    Args:
        adapter: Keras's data adapter.
        sharded: look at data from `hvd.shard`, too, which has been compared among those that
            divide it.
    """
    kind = type(adapter).__name__
    if isinstance(adapter, ShardedAdapter):
        return Seen(kind, adapter.data.source.contents(sampled=True) if sharded else [])
    if isinstance(adapter, ArrayDataAdapter):
        return Seen(kind, samples_of(_leaves(adapter._inputs), "x"))
    if isinstance(adapter, TFDatasetAdapter):
        found = peek(adapter._dataset)
        functions = Fact("functions", found.functions)
        return Seen(kind, [*found.contents, functions] if found.complete else [])
    if isinstance(adapter, PyDatasetAdapter):
        data, count = adapter.py_dataset, adapter.py_dataset.num_batches
        numbers = [0] if not count else sorted({0, count - 1})
        batches = [samples_of(_leaves(data[i]), f"batch {i}") for i in numbers]
        return Seen(kind, [Fact("batches", count), *(s for batch in batches for s in batch)])
    if isinstance(adapter, GeneratorDataAdapter):  # Keras has looked at its first batches
        return Seen(kind, samples_of(_leaves(adapter._first_batches), "batches"))
    return Seen(kind, [])


def problem_in_groups(seen: Mapping[int, Seen], tensor: int) -> str | None:
    """What differs between ranks that divide the layers of one model, and so need the same rows.

    Args:
        seen: what each rank sees of its data.
        tensor: how many ranks divide a layer; they are next to each other.
    """
    first: dict[int, int] = {}
    for rank, one in seen.items():
        other = first.setdefault(rank // tensor, rank)
        if one.kind == PyDatasetAdapter.__name__:  # it may augment, and is read once
            continue
        found = first_difference(seen[other].contents, one.contents, other, rank)
        if found is not None:
            return (
                f"ranks {other} and {rank} divide the layers of one model, and read other rows: "
                f"{found[0]}. Give the data of all ranks the same seed and the same files."
            )
    return None


def without_drawn(seen: Mapping[int, Seen], again: Mapping[int, Seen]) -> dict[int, Seen]:
    """Leave out what was another at a second look, such as images that are augmented.

    Args:
        seen: by rank.
        again: what each rank has seen the second time.
    """
    drawn: set[int] = set()
    for rank, first in seen.items():
        pairs = zip(first.contents, again[rank].contents, strict=False)
        drawn |= {i for i, (a, b) in enumerate(pairs) if a.difference(b, rank, rank)}
    return {
        rank: Seen(one.kind, [c for i, c in enumerate(one.contents) if i not in drawn])
        for rank, one in seen.items()
    }


def ranks_with_same_rows(seen: Mapping[int, Seen]) -> list[list[int]]:
    """The groups of ranks that read the same rows, as far as can be seen.

    Args:
        seen: what each rank sees of its data; of ranks that need the same rows, only one.
    """
    groups: list[list[int]] = []
    for rank, one in seen.items():
        if not any(isinstance(c, Sample) and c.tells_rows_apart for c in one.contents):
            continue
        for group in groups:
            other = seen[group[0]]
            if first_difference(other.contents, one.contents, 0, 1) is None:
                group.append(rank)
                break
        else:
            groups.append([rank])
    return [group for group in groups if len(group) > 1]


def advice(kind: str, ranks: Sequence[int], times: int) -> str:
    """What to say about ranks that read the same rows.

    Args:
        kind: of the data, see `Seen`.
        ranks: the ranks.
        times: how often a row is trained on in an epoch.
    """
    call = {
        "ArrayDataAdapter": "fit(hvd.shard((x, y), batch_size=32), ...)",
        "TFDatasetAdapter": "fit(hvd.shard(dataset), ...)",
        "PyDatasetAdapter": "fit(hvd.shard(py_dataset), ...)",
    }.get(kind, "hvd.shard, of arrays, a tf.data.Dataset or a keras.utils.PyDataset")
    return (
        f"hvdkit: ranks {', '.join(map(str, ranks))} train on the same rows: an epoch reads each "
        f"row {times} times, and takes as long as on one rank. Divide the data over the ranks: "
        f"{call}. (This is said once; hvd.init(consistency_check=False) leaves the check out.)"
    )


def _leaves(data: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(data) if hasattr(leaf, "shape") and len(leaf.shape)]
