"""A `fit` in a job of `hvdkit scale`: its batch divided, and what it leaves out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.reference import BATCH, data, mlp
from checks.sharding.reference import Batches

import hvdkit as hvd
from hvdkit.monitoring.measurement import VARIABLE, Measurement
from hvdkit.monitoring.readings.busy import GpuLoad
from hvdkit.training.divided_batch import divide_batch
from hvdkit.training.features import Call
from hvdkit.training.measured import Measured
from hvdkit.training.measured_use import UseSince

HALF = BATCH // 2


def call_with(x: Any, **arguments: Any) -> Call:
    given = {
        "x": x,
        "y": None,
        "batch_size": None,
        "callbacks": None,
        "epochs": 2,
        "initial_epoch": 0,
        "validation_freq": 1,
    }
    return Call(None, "fit", {**given, **arguments})


def rows_of_first_step(sharded: Any) -> list[float]:
    """The first column of all rows of all ranks in the first step, in order."""
    own = np.asarray(next(iter(sharded))[0])[:, 0]
    return sorted(np.concatenate(hvd.allgather_object(own)).tolist())


def check_ranks_share_the_rows_that_half_of_them_had() -> None:
    x, y = data(3 * hvd.size() * BATCH)
    rows = tf.data.Dataset.from_tensor_slices((x, y))
    for sharded in (
        hvd.shard((x, y), BATCH, shuffle=False),
        hvd.shard(rows, BATCH),
        hvd.shard(rows.batch(BATCH)),
        hvd.shard((x, y), BATCH, shuffle=False).map(lambda x, y: (x + 0.0, y)),
        hvd.shard((x, y), BATCH, shuffle=False, map=lambda x, y: (x + 0.0, y)),
    ):
        before = len(sharded)
        call = call_with(sharded)
        assert divide_batch(call, 2) is None
        divided = call.arguments["x"]
        assert len(divided) == 2 * before
        expected = x[: hvd.size() * HALF, 0]
        assert rows_of_first_step(divided) == sorted(expected.tolist()), type(sharded.source)


def check_what_fit_batches_itself_is_divided() -> None:
    x, y = data(8 * BATCH)
    call = call_with(x, y=y, batch_size=BATCH)
    assert divide_batch(call, 2) is None
    assert call.arguments["batch_size"] == HALF
    default = call_with({"a": x}, y=y)
    assert divide_batch(default, 4) is None
    assert default.arguments["batch_size"] == 8  # of Keras's 32


def check_batches_that_can_not_be_divided() -> None:
    x, y = data(4 * hvd.size() * BATCH)
    rows = tf.data.Dataset.from_tensor_slices((x, y))
    width = tf.TensorSpec([None, None]), tf.TensorSpec([None, 2])
    unlike = tf.data.Dataset.from_generator(lambda: iter([(x, y)] * 4), output_signature=width)
    for given, why in (
        (hvd.shard((x, y), BATCH + 1), f"the {BATCH + 1} rows of a rank in a batch"),
        (hvd.shard(Batches(x, y)), "makes its batches itself"),
        (hvd.shard((x[: hvd.size()], y[: hvd.size()]), BATCH), "fewer rows than a batch has"),
        (hvd.shard(unlike, batched=True), "makes its batches itself"),
        (rows.batch(BATCH), "whose batches the script makes itself"),
        (Batches(x, y), "whose batches the script makes itself"),
        (iter([(x, y)]), "whose batches the script makes itself"),
    ):
        call = call_with(given)
        problem = divide_batch(call, 2)
        assert problem is not None, given
        assert why in problem, problem
        assert call.arguments["x"] is given
    assert "batch_size=7" in str(divide_batch(call_with(x, y=y, batch_size=7), 2))


@contextlib.contextmanager
def measured() -> Iterator[None]:
    os.environ[VARIABLE] = Measurement("nowhere", 10, 30, 5).as_text()
    try:
        yield
    finally:
        del os.environ[VARIABLE]


class _Own(keras.callbacks.Callback):
    """The user's own."""


def check_nothing_is_saved_or_resumed_while_it_is_measured() -> None:
    own = _Own()
    given = [
        hvd.callbacks.BackupAndRestore("never"),
        keras.callbacks.ModelCheckpoint("never.keras"),
        own,
        hvd.callbacks.EarlyStopping(monitor="val_loss"),
        hvd.callbacks.ModelCheckpoint("never.keras"),
        hvd.callbacks.Monitor(),
        keras.callbacks.CSVLogger("never.csv"),
    ]
    x, y = data(8)
    with measured():
        call = call_with(x, y=y, callbacks=given)
        call.model = mlp(0)
        Measured().before(call)
        once = call_with(iter([(x, y)]))
        once.model = mlp(0)
        Measured().before(once)
    assert [type(each).__name__ for each in call.callbacks] == ["_Own", "Monitor", "_Window"]
    assert call.callbacks[0] is own
    assert call.callbacks[1] is not given[5]
    assert call.arguments["epochs"] == 40
    assert call.arguments["validation_freq"] > 10**6
    assert once.arguments["epochs"] == 2, "it has nothing to read a second time"


def check_ranks_out_of_step_are_refused() -> None:
    if not hvd.mpi_enabled():  # there a parameter server is refused itself
        return
    model = mlp(0)
    servers = hvd.exchange.ParameterServer(servers=1)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), exchange=servers), "mse")
    x, y = data(8)
    call = call_with(x, y=y)
    call.model = model
    with (
        measured(),
        pytest.raises(NotImplementedError, match=r"ParameterServer do not"),
    ):
        Measured().before(call)


def check_other_jobs_are_not_measured() -> None:
    x, y = data(8)
    call = call_with(x, y=y, callbacks=[_Own()])
    before = dict(call.arguments)
    Measured().before(call)
    assert call.arguments == before


class _StandIn:
    """Of pynvml: a GPU that is busy for 80 and 40 % of the time, in turns."""

    def __init__(self) -> None:
        self.looks = 0

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        assert handle == "gpu"
        self.looks += 1
        return SimpleNamespace(gpu=80 if self.looks % 2 else 40)


def check_gpus_are_looked_at_now_and_then() -> None:
    nvml, times = _StandIn(), iter([0.0, 0.1, 0.3, 0.35])
    load = GpuLoad(nvml, ["gpu"], lambda: next(times))
    assert load.share is None
    for _ in range(4):
        load.look()
    assert nvml.looks == 2
    assert load.share is not None
    assert abs(load.share - 0.6) < 1e-9
    assert GpuLoad.open([]) is None


def check_what_a_rank_uses_of_its_host() -> None:
    use = UseSince()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        use.look()
    found = use.until_now()
    assert found.rank == hvd.rank()
    assert found.cpu_seconds > 0.25
    assert found.seconds > 0.25
    assert found.cores == sorted(os.sched_getaffinity(0))
    assert (found.devices, found.devices_busy) == ([], None)
