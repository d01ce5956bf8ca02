"""A training that was stopped at any step ends like one that was never stopped."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.checkpoints.runs import (
    build,
    never_stopped,
    require_same_end,
    rows,
    shared_folder,
    train,
)

import hvdkit as hvd


def check_stopped_at_random_steps() -> None:
    rng = np.random.default_rng(hvd.size())
    folder = shared_folder()
    for stop in (1, *rng.integers(2, 5, 2).tolist()):
        assert train(folder, stop=stop) is None
    require_same_end(never_stopped(), train(folder))
    # It is finished, so to start it again changes nothing.
    require_same_end(never_stopped(), train(folder))


def check_saved_between_epochs() -> None:
    options = {"save_freq": "epoch", "validation_data": hvd.shard(rows(), 4)}
    never, folder = train(shared_folder(), **options), shared_folder()
    assert train(folder, stop=7, **options) is None
    require_same_end(never, train(folder, **options))


def check_state_of_optimizers() -> None:
    """Loss scale, accumulated gradients, moving averages of weights."""

    def model() -> keras.Model:
        keras.config.set_dtype_policy("mixed_float16")
        try:
            inner = keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True, ema_momentum=0.8)
            return build(optimizer=inner, distributed={"backward_passes_per_step": 2})
        finally:
            keras.config.set_dtype_policy("float32")

    never, folder = train(shared_folder(), model=model()), shared_folder()
    assert train(folder, stop=5, model=model(), save_freq=3) is None
    require_same_end(never, train(folder, model=model(), save_freq=3))


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
