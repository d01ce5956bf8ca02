"""Loops of one's own."""

from __future__ import annotations

import keras
import tensorflow as tf
from checks.hearing import heard
from checks.reference import data, mlp
from checks.trace.files import TraceFile, shared_folder
from checks.trace.fits import BYTES, require_one_meeting

import hvdkit as hvd


def check_a_loop_of_ones_own() -> None:
    model, optimizer = mlp(1), keras.optimizers.SGD(0.01)
    x, y = data(4, seed=hvd.rank())

    @tf.function
    def train_step() -> None:
        with hvd.DistributedGradientTape(tf.GradientTape()) as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    with shared_folder() as folder, heard() as texts:
        with hvd.trace(folder, steps=(1, 3)) as trace:
            for _ in range(5):
                train_step()
                trace.step()
        assert trace.path is not None
        file = TraceFile(trace.path)
        for rank in range(hvd.size()):
            assert file.names(f"rank {rank}", "steps") == ["step 1", "step 2", "step 3"]
            own = file.on(f"rank {rank}", "collectives")
            assert sum(e["args"]["bytes"] for e in own if "bucket" in e["name"]) == 3 * BYTES, own
            passes = file.names(f"rank {rank}", "forward and backward")
            assert passes == ["forward", "backward"] * 3
        require_one_meeting(file)
        with hvd.trace(folder, steps=(2, 9)) as short:  # its window begins and has no step
            train_step()
            short.step()
        assert short.path is None
        assert len([text for text in texts if "traced nothing" in text]) == (hvd.rank() == 0)
