"""Which rows a rank reads, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH
from checks.unequal.kinds import KINDS, VERY_UNEQUAL, global_batch, weights

import hvdkit as hvd
from hvdkit.data.shares import apportioned


def _steps(shard: Iterable[Any]) -> list[list[list[int]]]:
    """The rows of each rank in each step of a pass; padding is none."""
    own = [x.numpy()[w.numpy() > 0].ravel().astype(int).tolist() for x, _, w in shard]
    return [list(step) for step in zip(*hvd.allgather_object(own), strict=True)]


def _together(parts: Iterable[Sequence[int]]) -> list[int]:
    return sorted(number for part in parts for number in part)


def _require_global_batches(steps: list[list[list[int]]], order: list[int], name: str) -> None:
    width = global_batch()
    whole = [sorted(order[i : i + width]) for i in range(0, len(order), width)]
    assert list(map(_together, steps)) == whole, name


def _rows(extra: int) -> tuple[np.ndarray, np.ndarray]:
    rows = 3 * global_batch() + extra
    return np.arange(rows, dtype="float32")[:, None], np.arange(rows)


def check_each_step_is_a_global_batch_in_proportion() -> None:
    given = weights()
    x, y = _rows(extra=BATCH)
    for name, kind in KINDS.items():
        shard = kind(x, y, weights=given)
        steps = _steps(shard)
        _require_global_batches(steps, y.tolist(), name)
        expected = apportioned(given, global_batch())
        assert all(tuple(map(len, step)) == expected for step in steps[:-1]), (name, expected)
        assert shard.weights == (tuple(given) if hvd.size() > 1 else None)
        assert len(steps) == 4, name


@long
def check_any_number_of_rows_at_the_end() -> None:
    for extra in range(1, global_batch()):
        x, y = _rows(extra)
        for given in (weights(), weights(VERY_UNEQUAL)):
            steps = _steps(KINDS["arrays"](x, y, weights=given))
            _require_global_batches(steps, y.tolist(), f"{extra} rows")
            short = [len(own) / extra for own in steps[-1]]
            share = [one / sum(given) for one in given]
            assert np.abs(np.subtract(short, share)).max() < 1.5 / extra + 1 / global_batch()


@long
def check_the_weights_of_rows_make_a_mean_over_the_global_batch() -> None:
    x, y = _rows(extra=2)
    for name, kind in KINDS.items():
        for _, rows, scale in kind(x, y, weights=weights(VERY_UNEQUAL)):
            own = np.asarray(rows) * np.asarray(scale)
            means = hvd.allgather_object(float(own.mean()))
            numbers = hvd.allgather_object(np.asarray(rows)[np.asarray(scale) > 0].tolist())
            np.testing.assert_allclose(np.mean(means), np.mean(_together(numbers)), rtol=1e-5)
            assert len(numbers[-1]) <= 1 or hvd.size() == 1, name


def check_a_last_batch_of_fewer_rows_than_ranks() -> None:
    x, y = _rows(extra=1)
    steps = _steps(KINDS["samples"](x, y, weights=weights(VERY_UNEQUAL)))
    _require_global_batches(steps, y.tolist(), "one row")


@long
def check_shuffled_alike_whatever_the_weights() -> None:
    x, y = _rows(extra=1)
    orders = []
    for given in (None, weights(), weights(VERY_UNEQUAL)):
        shard = hvd.shard((x, y), BATCH, seed=5, weights=given)
        orders.append([_together(step) for _ in range(2) for step in _steps(shard)])
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][0] != orders[0][4], "not shuffled anew"


@long
def check_drop() -> None:
    x, y = _rows(extra=BATCH)
    for name, kind in KINDS.items():
        shard = kind(x, y, weights=weights(), remainder="drop")
        plain = hvd.size() == 1
        steps = _steps((*batch, tf.ones([len(batch[0])])) if plain else batch for batch in shard)
        _require_global_batches(steps, y[: 3 * global_batch()].tolist(), name)


@long
def check_weights_that_are_equal_are_no_weights() -> None:
    x, y = _rows(extra=1)
    plain = [batch[1].numpy().tolist() for batch in KINDS["arrays"](x, y)]
    same = KINDS["arrays"](x, y, weights=[0.1] * hvd.size())
    assert [batch[1].numpy().tolist() for batch in same] == plain
