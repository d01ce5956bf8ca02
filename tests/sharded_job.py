"""One rank of a job with a sharded optimizer; `test_sharded_optimizer.py` compares jobs.

    python sharded_job.py FOLDER STAGE STEPS

It goes on from the checkpoint in a folder, if there is one, makes some steps and saves. The mean
gradient of a step is the same for any number of ranks. Rank 0 writes the weights into the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

RULES = {"matrix": keras.optimizers.Adafactor, "vector": keras.optimizers.Nadam}


def optimizer_of() -> keras.optimizers.Optimizer:
    """By element for vectors, by whole variables for matrices."""
    rules = {kind: make(0.05, gradient_accumulation_steps=3) for kind, make in RULES.items()}
    return keras.optimizers.MultiOptimizer(
        lambda variable: rules["matrix" if len(variable.shape) == 2 else "vector"]
    )


def main(folder: str, stage: int, steps: int) -> None:
    """Train; `stage` 0 is the plain optimizer."""
    hvd.init()
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(7), keras.layers.Dense(13), keras.layers.Dense(3)]
    )
    exchange = hvd.exchange.Sharded(stage) if stage else None
    model.compile(hvd.DistributedOptimizer(optimizer_of(), exchange=exchange), "mse")
    variables = model.trainable_variables
    done = (hvd.checkpoint.restore(folder, model) or {"steps": 0})["steps"]
    off = hvd.rank() - (hvd.size() - 1) / 2
    for step in range(done, done + steps):
        rng = np.random.default_rng(step)
        means, others = ([rng.normal(size=v.shape) for v in variables] for _ in range(2))
        gradients = [mean + off * other for mean, other in zip(means, others, strict=True)]
        model.optimizer.apply([tf.constant(g, tf.float32) for g in gradients], variables)
    hvd.checkpoint.save(folder, model, values={"steps": done + steps})
    if hvd.rank() == 0:
        np.savez(Path(folder) / "weights.npz", *model.get_weights())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
