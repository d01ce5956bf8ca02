"""Where the time of a step goes is found on ranks that are made slow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.monitor.kept import Kept, monitored
from checks.reference import data

import hvdkit as hvd

PAUSE = 0.2
PARTS = (
    "compute_seconds",
    "waiting_for_ranks_seconds",
    "exchange_seconds",
    "waiting_for_data_seconds",
    "rest_seconds",
)


class Sleeping(keras.layers.Layer):
    """Takes its time in the forward pass, on one rank."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def call(self, x: Any) -> Any:
        if not self.seconds or isinstance(x, keras.KerasTensor):
            return x

        def sleep(value: Any) -> Any:
            time.sleep(self.seconds)
            return value

        slept = tf.numpy_function(sleep, [tf.stop_gradient(x)], x.dtype)
        slept.set_shape(x.shape)
        return x + 0.0 * slept


def _model(seconds: float = 0.0, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(hvd.rank())
    layers = [Sleeping(seconds), keras.layers.Dense(8), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)), "mse", **options)
    return model


def _rows(steps: int = 5) -> Any:
    return hvd.shard(data(hvd.size() * 2 * steps), 2)


def _of_last(kept: Kept, name: str) -> list[float]:
    return [rank.values[name] for rank in kept.of_steps[-1].ranks]


def _require_sum(kept: Kept) -> None:
    for rank in kept.of_steps[-1].ranks:
        total = sum(rank.values[part] for part in PARTS)
        np.testing.assert_allclose(total, rank.values["step_seconds"], rtol=0.05, atol=2e-3)


@long
def check_others_wait_for_a_rank_that_computes_slowly() -> None:
    slow = hvd.size() - 1
    kept = monitored(_model(PAUSE if hvd.rank() == slow else 0.0), _rows())
    waiting, compute = (_of_last(kept, f"{n}_seconds") for n in ("waiting_for_ranks", "compute"))
    assert waiting[slow] == 0.0
    assert compute[slow] > PAUSE
    for rank in range(slow):
        assert waiting[rank] > 0.4 * PAUSE
        assert compute[rank] < compute[slow]
    _require_sum(kept)


@long
def check_eager_steps_are_split_as_graphs_are() -> None:
    slow = hvd.size() - 1
    model = _model(PAUSE if hvd.rank() == slow else 0.0, run_eagerly=True)
    kept = monitored(model, _rows())
    assert _of_last(kept, "waiting_for_ranks_seconds")[slow] == 0.0
    assert min(_of_last(kept, "waiting_for_ranks_seconds")[:slow]) > 0.4 * PAUSE
    _require_sum(kept)
    assert "gradient_norm" in kept.of_steps[-1].values


@long
def check_a_rank_waits_for_its_data_and_the_others_for_it() -> None:
    slow = hvd.size() - 1
    x, y = data(12)

    def batches() -> Iterator[Any]:
        for i in range(6):
            time.sleep(PAUSE if hvd.rank() == slow else 0.0)
            yield x[2 * i : 2 * i + 2], y[2 * i : 2 * i + 2]

    spec = (tf.TensorSpec((2, 6), tf.float32), tf.TensorSpec((2, 2), tf.float32))
    rows = tf.data.Dataset.from_generator(batches, output_signature=spec)
    kept = monitored(_model(), rows.repeat(), steps_per_epoch=6)
    of_data = _of_last(kept, "waiting_for_data_seconds")
    assert of_data[slow] > 0.4 * PAUSE
    assert max(of_data[:slow]) < of_data[slow]
    assert min(_of_last(kept, "waiting_for_ranks_seconds")[:slow]) > 0.4 * PAUSE
    _require_sum(kept)


@long
def check_a_callback_that_takes_its_time_is_the_rest() -> None:
    slow = hvd.size() - 1

    class Slow(keras.callbacks.Callback):
        def __init__(self, method: str) -> None:
            super().__init__()
            setattr(self, method, lambda *_, **__: time.sleep(PAUSE if hvd.rank() == slow else 0.0))

    others = [r for r in range(hvd.size()) if r != slow]
    for method in ("on_train_batch_begin", "on_train_batch_end"):
        model = _model()
        kept, slowed = Kept(), Slow(method)
        monitor = hvd.callbacks.Monitor(2, [kept], alarms=[])
        start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
        model.fit(_rows(), verbose=0, callbacks=[start, slowed, monitor])
        kept = hvd.broadcast_object(kept, 0)
        _require_rest(kept, slow, others)
    _require_rest(monitored(_model(), _rows(), callbacks=[slowed]), slow, others)


def _require_rest(kept: Kept, slow: int, others: list[int]) -> None:
    assert _of_last(kept, "compute_seconds")[slow] < PAUSE
    assert _of_last(kept, "waiting_for_data_seconds")[slow] < PAUSE
    late = _of_last(kept, "rest_seconds")[slow]
    assert late > 0.4 * PAUSE
    assert min(_of_last(kept, "waiting_for_ranks_seconds")[r] for r in others) > 0.4 * PAUSE


@long
def check_collectives_of_python_are_waited_for_too() -> None:
    """A callback that meets after each step."""

    class Meets(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            time.sleep(PAUSE if hvd.rank() == 0 else 0.0)
            hvd.barrier()

    kept = monitored(_model(), _rows(), callbacks=[Meets()])
    waiting = _of_last(kept, "waiting_for_ranks_seconds")
    assert waiting[0] == 0.0
    assert min(waiting[1:]) > 0.4 * PAUSE
    assert any("barrier" in name for name in kept.of_steps[-1].sent)


@long
def check_what_cannot_be_split_is_left_out() -> None:
    """Several steps in one call: the time of a step stays."""
    kept = monitored(_model(steps_per_execution=2), _rows(8), every=2)
    for sample in kept.of_steps:
        assert sample.values["step_seconds"] > 0
        assert not set(PARTS) & set(sample.values)
        assert "gradient_norm" in sample.values
    assert sum(sample.steps for sample in kept.of_steps) == 6
    # Keras takes the last call of an epoch, of one step, for one of two.
    kept = monitored(_model(steps_per_execution=2), _rows(3), every=1, epochs=2)
    assert [sample.step for sample in kept.of_epochs] == [3, 6]
    assert [sample.step for sample in kept.of_steps] == [3, 5, 6]
    assert [sample.steps for sample in kept.of_steps] == [1, 2, 1]
