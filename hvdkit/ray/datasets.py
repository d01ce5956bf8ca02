"""Ray Datasets, cut into consecutive rows for each rank.

Ray's own `streaming_split` leaves rows out where it makes equal shards, and does not say how many
rows the others have. So a Dataset is computed once, into Ray's object store; then the number of
rows of each of its blocks is known, and a rank's keeper fetches the blocks that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdkit.errors import HvdkitError
from hvdkit.jobs.arrow import numpy_columns


@dataclass(frozen=True)
class Blocks:
    """A computed Dataset.

    Attributes:
        references: of its blocks, in order.
        rows: how many rows each of them has.
    """

    references: list[Any]
    rows: list[int]


def computed(datasets: Mapping[str, Any]) -> dict[str, Blocks]:
    """Compute Datasets, before the ranks take the cluster's CPUs.

    Args:
        datasets: by name.

    Raises:
        TypeError: something is no Ray Dataset.
        HvdkitError: a Dataset has no rows.
    """
    found = {}
    for name, dataset in datasets.items():
        if not hasattr(dataset, "materialize"):
            raise TypeError(
                f"datasets[{name!r}] is a {type(dataset).__name__}, not a ray.data.Dataset; other "
                "arguments of the function go into args= and kwargs=."
            )
        pairs = [
            (reference, int(about.num_rows))
            for bundle in dataset.materialize().iter_internal_ref_bundles()
            for reference, about in zip(bundle.block_refs, bundle.metadata, strict=True)
            if about.num_rows
        ]
        if not pairs:
            raise HvdkitError(f"datasets[{name!r}] has no rows.")
        found[name] = Blocks([reference for reference, _ in pairs], [rows for _, rows in pairs])
    return found


def rows_of(rows: int, rank: int, size: int) -> range:
    """Which of so many rows a rank has: consecutive ones, the first ranks one more if need be."""
    each, more = divmod(rows, size)
    first = rank * each + min(rank, more)
    return range(first, first + each + (rank < more))


def columns_of(blocks: Blocks, rank: int, size: int) -> dict[str, np.ndarray]:
    """The rows of a rank, by columns; called in a process of Ray's."""
    import ray
    from ray.data.block import BlockAccessor

    own = rows_of(sum(blocks.rows), rank, size)
    pieces, begin = [], 0
    for reference, rows in zip(blocks.references, blocks.rows, strict=True):
        first, last = max(own.start - begin, 0), min(own.stop - begin, rows)
        if first < last:
            block = BlockAccessor.for_block(ray.get(reference)).slice(first, last)
            pieces.append(BlockAccessor.for_block(block).to_arrow())
        begin += rows
    if not pieces:  # fewer rows than ranks: the columns, without rows
        pieces = [BlockAccessor.for_block(ray.get(blocks.references[0])).to_arrow().slice(0, 0)]
    columns = [numpy_columns(piece, _tensors) for piece in pieces]
    for name in columns[0]:
        kinds = {(each[name].dtype, each[name].shape[1:]) for each in columns if name in each}
        if len(kinds) > 1 or not all(name in each for each in columns):
            raise HvdkitError(
                f"column {name!r} has several types or shapes, or is missing, in blocks of this "
                f"Dataset: {sorted(map(str, kinds))}. Give it one, by map_batches."
            )
    return {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}


def _tensors(name: str, column: Any) -> np.ndarray:
    """Ray's columns of arrays of one shape."""
    import pyarrow as pa
    from ray.data.block import BlockAccessor

    found: np.ndarray = BlockAccessor.for_block(pa.table({name: column})).to_numpy(name)
    if found.dtype == object:
        raise HvdkitError(f"column {name!r} holds arrays of several shapes: pad them before.")
    return found
