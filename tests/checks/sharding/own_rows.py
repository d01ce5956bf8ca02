"""Rows that each rank has for itself, as those of Ray and Spark: an epoch of one process."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import classifier, compare, labelled_rows

import hvdkit as hvd
from hvdkit.data.shard_own import shard_own


class Given(keras.utils.PyDataset):
    """Batches that are given."""

    def __init__(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batches[index]


def uneven() -> list[np.ndarray]:
    """The rows of each rank: each has another number of them, and another number of batches."""
    counts = [(hvd.size() - rank) * BATCH + 1 + rank for rank in range(hvd.size())]
    return np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])


def last_is_empty() -> list[np.ndarray]:
    """The rows of each rank; the last rank has none."""
    counts = [BATCH + 3] * max(1, hvd.size() - 1)
    counts += [0] * (hvd.size() - len(counts))
    return np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])


def sharded(parts: list[np.ndarray], **options: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    x, y = labelled_rows(sum(map(len, parts)))
    given = {"shuffle": False, "seed": 3, "remainder": "pad", **options}

    def read(rank: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        assert (rank, size) == (hvd.rank(), hvd.size())
        return x[parts[rank]], y[parts[rank]]

    return shard_own(read, BATCH, what="the rows", **given), x, y


def batches_of(parts: list[np.ndarray]) -> list[np.ndarray]:
    """What all ranks read together in each step."""
    steps = range(0, max(map(len, parts)), BATCH)
    return [np.concatenate([part[step : step + BATCH] for part in parts]) for step in steps]


@long
def check_uneven_rows_train_and_evaluate_as_one_process() -> None:
    for parts in (uneven(), last_is_empty()):
        data, x, y = sharded(parts)
        single = Given([(x[rows], y[rows]) for rows in batches_of(parts)])
        assert len(data) == len(single)
        compare(single, data, fit={"shuffle": False}, validation=((x, y), data))


@long
def check_predictions_are_in_the_order_of_the_ranks() -> None:
    model = classifier(0)
    for parts in (uneven(), last_is_empty()):
        data, x, _ = sharded(parts, shuffle=True)
        np.testing.assert_allclose(
            model.predict(data, verbose=0), model.predict(x, verbose=0), 1e-5
        )


def check_each_epoch_has_every_row_once_in_another_order() -> None:
    parts = uneven()
    data, x, _ = sharded(parts, shuffle=True)
    epochs = []
    for _ in range(2):
        own = [row for rows, _, weights in data for row in rows[weights > 0].numpy().tolist()]
        epochs.append(own)
        everyone = [row for rows in hvd.allgather_object(own) for row in rows]
        np.testing.assert_allclose(sorted(everyone), sorted(x.tolist()), 1e-6)
    assert epochs[0] != epochs[1]


def check_full_batches_only() -> None:
    parts = uneven()
    data, _, _ = sharded(parts, remainder="drop")
    assert len(data) == min(map(len, parts)) // BATCH
    assert [len(x) for x, _ in data] == [BATCH] * len(data)


@long
def check_a_loop_goes_on_where_it_was_and_with_other_rows_it_begins_again() -> None:
    data, _, _ = sharded(uneven(), shuffle=True)
    whole = [x.numpy() for x, _, _ in data]
    begun, _, _ = sharded(uneven(), shuffle=True)
    loop = iter(begun)
    next(loop)
    position = begun.position(1)
    resumed, _, _ = sharded(uneven(), shuffle=True)
    resumed.start_at(position)
    for got, expected in zip([x for x, _, _ in resumed], whole[1:], strict=True):
        np.testing.assert_array_equal(got, expected)
    others, _, _ = sharded([*uneven()[:-1], uneven()[-1][:-1]], shuffle=True)
    others.start_at(position)
    assert len(list(others)) == len(others)


def check_what_is_wrong_on_one_rank_is_an_error_on_all() -> None:
    last = hvd.size() - 1

    def fails(rank: int, size: int) -> Any:
        if rank == last:
            raise hvd.HvdkitError("the file is gone")
        return (np.zeros(BATCH),)

    with pytest.raises(hvd.HvdkitError, match="the file is gone"):
        shard_own(fails, BATCH, False, 0, "pad", "the rows")
    if hvd.size() > 1:
        with pytest.raises(hvd.RankMismatchError, match="other types or shapes"):
            shard_own(
                lambda rank, size: (np.zeros((BATCH, 1 + (rank == last))),),
                *(BATCH, False, 0, "pad", "the rows"),
            )
    with pytest.raises(ValueError, match="the data has no rows"):
        shard_own(lambda rank, size: (np.zeros((0, 2)),), BATCH, False, 0, "pad", "the rows")
    with pytest.raises(ValueError, match="less than a batch"):
        shard_own(lambda rank, size: (np.zeros((1, 2)),), BATCH, False, 0, "drop", "the rows")
