"""Layers and optimizers of many kinds, divided over devices and not."""

from __future__ import annotations

import keras
import numpy as np
from checks.parallel_devices.comparing import (
    devices_of,
    require_same_training,
    require_slots_in_place,
)
from checks.parallel_devices.layer_split import split, whole

import hvdkit as hvd

ENVIRONMENT = {"CHECKS_CPU_DEVICES": "4"}
layers, optimizers = keras.layers, keras.optimizers
DEVICES = ["CPU:1", "CPU:2", "CPU:3"]
RNG = np.random.default_rng(0)


def images() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    first = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    x = layers.MaxPooling2D()(layers.BatchNormalization()(first))
    x = layers.UpSampling2D()(layers.Conv2D(6, 3, padding="same")(x))
    x = layers.GlobalAveragePooling2D()(layers.Concatenate()([x, first]))
    return keras.Model(inputs, layers.Dense(2)(x))


def sequences() -> keras.Model:
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 6, mask_zero=True)(inputs)
    x = layers.Dropout(0.2)(layers.LSTM(5, return_sequences=True)(x))
    return keras.Model(inputs, layers.Dense(2)(layers.GRU(4)(x)))


def transformer() -> keras.Model:
    x = inputs = keras.Input((5, 6))
    for _ in range(2):
        x = layers.LayerNormalization()(
            x + layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)
        )
        x = layers.LayerNormalization()(x + layers.Dense(6, "gelu")(x))
    return keras.Model(inputs, layers.Dense(2)(x[:, 0]))


def check_models_of_many_kinds_train_as_undivided():
    for make, x, micro_batches in (
        (images, RNG.normal(size=(20, 8, 8, 3)).astype("float32"), 1),
        (sequences, RNG.integers(0, 9, (20, 5)), 1),
        (transformer, RNG.normal(size=(20, 5, 6)).astype("float32"), 3),
    ):
        y = RNG.normal(size=(20, 2)).astype("float32")
        keras.utils.set_random_seed(1)
        model = make()
        divided = hvd.parallel.split(
            model, DEVICES, micro_batches=micro_batches, copy=True, verbose=False
        )
        assert set(devices_of(divided.variables)) == set(DEVICES)
        losses = []
        for each in (model, divided):
            keras.utils.set_random_seed(2)
            each.compile(optimizer=optimizers.Adam(0.01, clipnorm=1.0), loss="mse")
            history = each.fit(x, y, batch_size=6, epochs=4, shuffle=False, verbose=0)
            losses.append(history.history["loss"])
        np.testing.assert_allclose(*losses, rtol=1e-4)
        np.testing.assert_allclose(
            divided.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-3, atol=1e-4
        )


def check_optimizers_of_many_kinds_train_as_undivided():
    for optimizer in (
        lambda: optimizers.Lamb(0.02, gradient_accumulation_steps=2, clipvalue=0.05),
        lambda: optimizers.Muon(0.02, weight_decay=0.01),
        lambda: optimizers.Adafactor(0.05, gradient_accumulation_steps=2, use_ema=True),
        lambda: optimizers.AdamW(0.01, amsgrad=True, global_clipnorm=0.2),
    ):
        _, model = require_same_training(whole, lambda: split(micro_batches=2), optimizer)
        if not isinstance(model.optimizer, optimizers.Muon):  # which has different slots
            require_slots_in_place(model)
        assert set(devices_of(model.optimizer.variables)) == {"CPU:0", *DEVICES}


def check_runs_eagerly_and_with_several_steps_a_call():
    for options in ({"run_eagerly": True}, {"steps_per_execution": 2}):
        require_same_training(
            whole,
            lambda: split(micro_batches=2),
            lambda: optimizers.SGD(0.1, clipnorm=0.1),
            **options,
        )
