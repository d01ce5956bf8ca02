"""Data for `fit` of rows that each rank has for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from hvdkit.data.own_rows import OwnRowsSource
from hvdkit.data.sharded import ShardedData
from hvdkit.data.source import Sharding
from hvdkit.engine import (
    HvdkitError,
    RankMismatchError,
    allgather_object,
    global_process_set,
    raise_everywhere,
    require_initialized,
    require_same,
    topology,
)
from hvdkit.engine.elastic import require_inside
from hvdkit.mesh.mesh import over_replicas
from hvdkit.randomness import shared_seed


def shard_own(
    read: Callable[[int, int], Any],
    batch_size: int,
    shuffle: bool,
    seed: int | None,
    remainder: Literal["pad", "drop"],
    what: str,
) -> ShardedData:
    """What `hvd.shard` returns, of rows that the ranks need not hold together; all ranks call it.

    Args:
        read: gives the arrays of a rank, from its number and how many there are: a tuple of x, y
            and sample weights, as NumPy arrays or dictionaries of such. A rank may have no rows.
        batch_size: rows of one rank in a batch.
        shuffle: whether a rank shuffles its rows in each epoch.
        seed: see `hvd.shard`.
        remainder: "pad" trains on all rows; "drop" stops where the first rank has no full batch.
        what: what messages call it.

    Raises:
        HvdkitError: on every rank: rows can't be read, or the ranks share a model by a mesh.
        RankMismatchError: on every rank: the columns of the ranks differ.
        ValueError: on every rank: there are no rows, or an argument is out of range.
    """
    require_initialized(what)
    require_inside(what)
    rank, size = topology.rank(), topology.size()
    if topology.process_set_size(over_replicas(global_process_set)) != size:
        raise HvdkitError(
            f"{what} gives each rank rows of its own, but in this mesh several ranks hold one "
            "replica of the model and have to read the same rows: give all ranks the data, by "
            "hvd.shard."
        )
    if batch_size < 1 or remainder not in ("pad", "drop"):
        raise ValueError(
            f"batch_size is a positive number of rows, and remainder is "
            f'"pad" or "drop", not {batch_size!r} and {remainder!r}.'
        )
    data, problem = _try(read, rank, size)
    raise_everywhere(problem, HvdkitError)
    data = _with_columns_of_others(data, what)
    arrays = tf.nest.flatten(data)
    rows = allgather_object(len(arrays[0]), name="hvdkit.own_rows.rows")
    seed = shared_seed() or 0 if seed is None else seed
    source = OwnRowsSource(data, rows, rank, shuffle, seed)
    require_same(
        what, [*source.identity, f"batch_size {batch_size}", f"seed {seed}", f"shuffle {shuffle}"]
    )
    sharding = Sharding(rank, size, int(batch_size), remainder == "drop")
    source.check(sharding)
    if source.num_batches(sharding) == 0:
        raise ValueError(
            f"rank {int(np.argmin(source.rows))} has {source.rows.min()} rows, less than a batch "
            f'of {batch_size}, and remainder="drop" leaves all out: choose "pad".'
        )
    return ShardedData(source, sharding, global_process_set)


def _try(read: Callable[[int, int], Any], rank: int, size: int) -> tuple[Any, str | None]:
    try:
        return read(rank, size), None
    except HvdkitError as error:  # the other ranks wait to hear of it
        return None, str(error)


def _with_columns_of_others(data: Any, what: str) -> Any:
    """Shapes and types of the others for a rank without rows, whose columns may not know them.

    Raises:
        RankMismatchError: on every rank: those that have rows differ.
    """
    arrays = tf.nest.flatten(data)
    own = [(array.dtype, array.shape[1:]) for array in arrays] if len(arrays[0]) else None
    everyone = allgather_object(own, name="hvdkit.own_rows.columns")
    known = {rank: columns for rank, columns in enumerate(everyone) if columns is not None}
    for rank, columns in known.items():
        if columns != next(iter(known.values())):
            raise RankMismatchError(
                f"{what}: the columns of rank {rank} have other types or shapes than those of "
                f"rank {next(iter(known))}: {columns} and {next(iter(known.values()))}."
            )
    if own is not None or not known:
        return data
    empty = [np.zeros((0, *shape), dtype) for dtype, shape in next(iter(known.values()))]
    return tf.nest.pack_sequence_as(data, empty)
