"""One rank of a job whose weights must not depend on timing; `test_agreement.py` compares jobs.

It prints a sha256 of the weights after training with each of its seeds. Ranks wait at random
between steps and layers have many sizes, so that tensors become ready in another order each time.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from typing import Any

import hvdkit as hvd


def train(seed: int) -> str:
    """Train a model with dropout on data from `hvd.shard`; returns the hash of its weights."""
    import keras
    import numpy as np
    import tensorflow as tf

    hvd.set_random_seed(seed)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(144, 24)).astype("float32")
    y = rng.normal(size=(144, 3)).astype("float32")
    hurry = random.SystemRandom()

    class Wait(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            time.sleep(hurry.random() * 0.004)

    def wait(gradient: Any) -> Any:
        time.sleep(hurry.random() * 0.002)
        return gradient

    @tf.custom_gradient
    def slow(tensor: tf.Tensor) -> Any:
        def backward(gradient: tf.Tensor) -> tf.Tensor:
            waited = tf.py_function(wait, [gradient], tf.float32)
            return tf.ensure_shape(waited, gradient.shape)

        return tf.identity(tensor), backward

    class Slow(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return slow(inputs)

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    hidden: list[keras.layers.Layer] = []
    for width in (37, 51, 40):
        hidden += [keras.layers.Dense(width, "tanh"), Slow(), keras.layers.BatchNormalization()]
    model = keras.Sequential(
        [keras.layers.Input((24,)), keras.layers.Dropout(0.2), *hidden, keras.layers.Dense(3)]
    )
    # Each variable alone, so that what Horovod fuses is up to timing.
    groups = [[variable] for variable in model.trainable_variables]
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), groups=groups)
    model.compile(optimizer=optimizer, loss="mse")
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(hvd.shard((x, y), 8), epochs=2, verbose=0, callbacks=[start, Wait()])
    digest = hashlib.sha256()
    for variable in [*model.weights, *optimizer.variables]:
        digest.update(variable.numpy().tobytes())
    return digest.hexdigest()


def main(mode: str, *seeds: str) -> None:
    """Train with each seed, and print the hashes, on rank 0; the ranks must agree anyway."""
    hvd.init(deterministic=mode == "deterministic")
    hashes = [train(int(seed)) for seed in seeds]
    if hvd.rank() == 0:
        for line in hashes:
            sys.stdout.write(f"WEIGHTS {line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
