"""The rows that a keeper has for its rank, as data for `fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hvdkit.errors import HvdkitError
from hvdkit.jobs.rows import own_columns

if TYPE_CHECKING:
    from hvdkit.data.sharded import ShardedData

Columns = str | Sequence[str] | Mapping[str, str | Sequence[str]]


def get_shard(
    name: str = "train",
    *,
    x: Columns,
    y: Columns | None = None,
    sample_weight: str | None = None,
    batch_size: int,
    shuffle: bool = True,
    seed: int | None = None,
    remainder: Literal["pad", "drop"] = "pad",
) -> ShardedData:
    """This rank's rows of a Ray Dataset or a Spark DataFrame, for `fit`, `evaluate` or `predict`.

    Each row is on one rank, so the ranks read every row once an epoch, together as many in a step
    as one process with a batch of N x `batch_size` rows. Where ranks have unequal rows, a rank's
    loss counts the rows that it has in a step, as with `hvd.shard`. All ranks call it, after
    `hvd.init()`; in an elastic job, inside the function that `hvd.elastic.run` runs.

    Args:
        name: which data, of those in `datasets=` of `hvdkit.ray.run`.
        x: the column of the inputs; several columns of numbers, which become the columns of one
            matrix (rows, columns); or a dictionary from the names of a model's inputs to these.
        y: the column of the targets, in the same ways.
        sample_weight: the column of the weights of rows.
        batch_size: rows of one rank in a batch.
        shuffle: whether a rank shuffles its own rows each epoch. `evaluate` and `predict` read in
            order: the rows of rank 0, then those of rank 1, and so on.
        seed: seed of the shuffling; default: that of `hvd.set_random_seed`, or 0.
        remainder: "pad" reads all rows; "drop" ends an epoch where the first rank has no full
            batch any more.

    Returns:
        What `hvd.shard` returns.

    Raises:
        HvdkitError: on every rank: this job has no such data, there is no such column, a column
            holds nulls, or rows of unequal lengths; or a mesh has several ranks hold one replica.
        RankMismatchError: on every rank: columns have other types on some ranks.
        ValueError: on every rank: the data has no rows, or an argument is out of range.

    Example:
        >>> def train(epochs):
        ...     hvd.init()
        ...     model = build()
        ...     rows = hvdkit.ray.get_shard(x="image", y="label", batch_size=32)
        ...     model.fit(rows, epochs=epochs)
        ...     return model.get_weights()
    """
    from hvdkit.data.shard_own import shard_own

    def read(rank: int, size: int) -> Any:
        columns = own_columns(name, rank, size)
        fields = [x] if y is None else [x, y]
        fields += [] if sample_weight is None else [sample_weight]
        if sample_weight is not None and y is None:
            raise HvdkitError("sample_weight needs y.")
        return tuple(_picked(columns, field) for field in fields)

    return shard_own(read, batch_size, shuffle, seed, remainder, f"get_shard({name!r})")


def _picked(columns: Mapping[str, np.ndarray], field: Columns) -> Any:
    if isinstance(field, Mapping):
        return {
            name: _picked(columns, columns_of_input) for name, columns_of_input in field.items()
        }
    if not isinstance(field, str):
        return np.stack([_column(columns, name) for name in field], axis=-1)
    return _column(columns, field)


def _column(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in columns:
        raise HvdkitError(
            f"there is no column {name!r}; there are {', '.join(map(repr, columns))}."
        )
    return columns[name]
