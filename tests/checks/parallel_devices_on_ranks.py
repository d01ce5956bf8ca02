"""Two ranks that each split the model over devices of their own, trained on different data."""

from __future__ import annotations

import checks.parallel_devices.devices  # noqa: F401  (before TensorFlow starts)
import keras
from checks.parallel_devices.comparing import devices_of
from checks.reference import compare_with_one_process

import hvdkit as hvd

layers, optimizers = keras.layers, keras.optimizers


def model(seed: int) -> keras.Model:
    """The model on one device for the reference's seed, over two devices for others."""
    keras.utils.set_random_seed(seed)
    parts = [
        keras.Sequential([layers.Dense(8, "tanh"), layers.Dense(7, "tanh")]),
        layers.Dense(2),
    ]
    inputs = keras.Input((6,))
    if seed:
        devices = [f"CPU:{2 * hvd.rank()}", f"CPU:{2 * hvd.rank() + 1}"]
        split = hvd.parallel.LayerSplit(parts, devices, micro_batches=2)
        return keras.Model(inputs, split(inputs))
    return keras.Model(inputs, parts[1](parts[0](inputs)))


def check_ranks_train_as_one_process_does():
    for make in (
        lambda: optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1),
        lambda: optimizers.Adam(0.02, global_clipnorm=0.1),
    ):
        trained = compare_with_one_process(
            model, make, lambda m=make: hvd.DistributedOptimizer(m())
        )
        first, second = f"CPU:{2 * hvd.rank()}", f"CPU:{2 * hvd.rank() + 1}"
        assert devices_of(trained.trainable_variables) == [first] * 4 + [second] * 2
        slots = devices_of(trained.optimizer.variables)[2:]
        assert slots == [first] * (len(slots) * 2 // 3) + [second] * (len(slots) // 3)
