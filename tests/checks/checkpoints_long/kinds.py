"""Kinds of data and of variables that a stopped training goes on with."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.checkpoints.runs import build, require_same_end, rows, shared_folder, train

import hvdkit as hvd


def check_local_and_bfloat16_variables() -> None:
    def model() -> keras.Model:
        keras.config.set_dtype_policy("bfloat16")
        try:
            model = build()
        finally:
            keras.config.set_dtype_policy("float32")
        for variable in model.layers[0].trainable_variables:
            model.optimizer.register_local_var(variable)
        return model

    never, folder = train(shared_folder(), model=model()), shared_folder()
    assert any(w.dtype.name == "bfloat16" for w in never.weights)
    assert train(folder, stop=7, model=model()) is None
    end = train(folder, model=model())
    require_same_end(never, end)
    kernels = hvd.allgather_object(np.array(end.model.layers[0].kernel, "float32"))
    assert not np.array_equal(kernels[0], kernels[1])


def check_several_steps_per_execution() -> None:
    options: dict[str, Any] = {"save_freq": 2}
    never = train(shared_folder(), model=build(steps_per_execution=2), **options)
    folder = shared_folder()
    assert train(folder, stop=4, model=build(steps_per_execution=2), **options) is None
    require_same_end(never, train(folder, model=build(steps_per_execution=2), **options))


def check_data_that_is_not_sharded() -> None:
    x, y = rows(40)
    own = slice(hvd.rank(), None, hvd.size())

    def dataset() -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((x[own], y[own])).batch(4, drop_remainder=True)

    never, folder = train(shared_folder(), data=dataset()), shared_folder()
    assert train(folder, stop=3, data=dataset()) is None
    require_same_end(never, train(folder, data=dataset()))


def check_passes_longer_than_an_epoch() -> None:
    """With steps_per_epoch the data goes on where it was in the epoch before."""
    options = {"steps_per_epoch": 3, "epochs": 4}

    def endless() -> Any:
        dataset = tf.data.Dataset.from_tensor_slices(rows()).repeat()
        return hvd.shard(dataset, 4)

    for data in (lambda: None, endless):
        never, folder = train(shared_folder(), data=data(), **options), shared_folder()
        assert train(folder, stop=8, data=data(), **options) is None
        require_same_end(never, train(folder, data=data(), **options))


def check_length_that_is_not_known() -> None:
    def unknown() -> Any:
        dataset = tf.data.Dataset.from_tensor_slices(rows()).filter(lambda x, y: x[0] < 9)
        return hvd.shard(dataset, 4, shuffle=20, seed=2)

    never, folder = train(shared_folder(), data=unknown(), save_freq=1), shared_folder()
    steps = len(hvd.shard(rows(), 4))
    # After the last batch of an epoch, and before Keras knows that it is the last.
    assert train(folder, stop=steps + 1, data=unknown(), save_freq=1) is None
    require_same_end(never, train(folder, data=unknown(), save_freq=1))


def check_random_numbers_of_the_script() -> None:
    class Draws(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.drawn: list[float] = []

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.drawn.append(float(np.random.random()))

        def get_state(self) -> Any:
            return {"drawn": self.drawn, "array": np.arange(3)}

        def set_state(self, state: Any) -> None:
            assert state["array"].tolist() == [0, 1, 2]
            self.drawn = state["drawn"]

    draws = [Draws(), Draws()]
    folder = shared_folder()
    assert train(folder, stop=7, callbacks=[draws[0]]) is None
    train(folder, callbacks=[draws[1]])
    assert draws[0].drawn == draws[1].drawn[:7]
    assert len(set(draws[1].drawn)) == len(draws[1].drawn) > 7
    everyone = hvd.allgather_object(draws[0].drawn)
    assert everyone[0] != everyone[1]


def check_rate_that_is_scheduled() -> None:
    def decay() -> list[Any]:
        return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)]

    never, folder = train(shared_folder(), callbacks=decay()), shared_folder()
    for stop in (7, 3):
        assert train(folder, stop=stop, callbacks=decay(), save_freq="epoch") is None
    require_same_end(never, train(folder, callbacks=decay(), save_freq="epoch"))
