"""Options of fit and compile with sharded data."""

from __future__ import annotations

from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import compare, global_batches, labelled_rows, number_of_rows

import hvdkit as hvd


@long
def check_validation_data() -> None:
    x, y = labelled_rows(number_of_rows(1))
    vx, vy = labelled_rows(2 * hvd.size() * BATCH + 1)
    compare(
        global_batches(x, y),
        hvd.shard((x, y), BATCH, shuffle=False),
        validation=(global_batches(vx, vy), hvd.shard((vx, vy), BATCH)),
    )


@long
def check_steps_per_execution() -> None:
    x, y = labelled_rows(number_of_rows(1))
    compare(
        global_batches(x, y),
        hvd.shard((x, y), BATCH, shuffle=False),
        options={"steps_per_execution": 3},
    )


@long
def check_run_eagerly() -> None:
    x, y = labelled_rows(number_of_rows(1))
    compare(
        global_batches(x, y),
        hvd.shard((x, y), BATCH, shuffle=False),
        options={"run_eagerly": True},
        epochs=1,
    )


@long
def check_xla() -> None:
    x, y = labelled_rows(number_of_rows(1))
    compare(
        global_batches(x, y),
        hvd.shard((x, y), BATCH, shuffle=False),
        options={"jit_compile": True},
        epochs=1,
    )
