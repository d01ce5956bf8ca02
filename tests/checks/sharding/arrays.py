"""Arrays, with weights of rows and of classes, in order and shuffled."""

from __future__ import annotations

import keras
import numpy as np
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import (
    classifier,
    compare,
    compiled,
    global_batches,
    labelled_rows,
    number_of_rows,
)

import hvdkit as hvd


def _compare_arrays(extra: int) -> None:
    x, y = labelled_rows(number_of_rows(extra))
    compare(global_batches(x, y), hvd.shard((x, y), BATCH, shuffle=False))


@long
def check_arrays_uneven() -> None:
    _compare_arrays(2 * hvd.size() + 1)


@long
def check_arrays_with_a_last_row_for_one_rank() -> None:
    _compare_arrays(1)


def check_arrays_with_sample_weight() -> None:
    x, y = labelled_rows(number_of_rows(1))
    weights = np.linspace(0.5, 2, len(x)).astype("float32")
    compare(global_batches(x, y, weights), hvd.shard((x, y, weights), BATCH, shuffle=False))


@long
def check_class_weight() -> None:
    x, y = labelled_rows(number_of_rows(1))
    compare(
        global_batches(x, y),
        hvd.shard((x, y), BATCH, shuffle=False),
        fit={"class_weight": {0: 0.5, 1: 2.0, 2: 1.5}},
    )


@long
def check_shuffled_arrays_see_the_same_global_batches() -> None:
    x, y = labelled_rows(number_of_rows(1))
    order = [np.random.default_rng([3, epoch]).permutation(len(x)) for epoch in range(2)]
    batches = [
        (x[rows], y[rows])
        for epoch in order
        for rows in np.array_split(epoch, range(hvd.size() * BATCH, len(x), hvd.size() * BATCH))
    ]
    reference = compiled(classifier(0), keras.optimizers.Adam(0.02))
    start = reference.get_weights()
    for bx, by in batches:
        reference.train_on_batch(bx, by)
    model = classifier(hvd.rank())
    model.set_weights(start)
    compiled(model, hvd.DistributedOptimizer(keras.optimizers.Adam(0.02)))
    model.fit(hvd.shard((x, y), BATCH, shuffle=True, seed=3), epochs=2, verbose=0)
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
