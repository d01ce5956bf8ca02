"""GANs as in Keras's guide: two models, two optimizers, a train_step, and no call."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

L = keras.layers
LATENT = 3


class GAN(keras.Model):
    """Keras's guide, "Overriding fit", but that the noise comes with the data, to be repeatable."""

    def __init__(self, discriminator: Any, generator: Any) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.d_loss_tracker = keras.metrics.Mean(name="d_loss")
        self.g_loss_tracker = keras.metrics.Mean(name="g_loss")

    def compile(self, d_optimizer: Any, g_optimizer: Any, loss_fn: Any, **options: Any) -> None:
        super().compile(**options)
        self.d_optimizer = d_optimizer
        self.optimizers = {"g": g_optimizer}
        self.loss_fn = loss_fn

    @property
    def metrics(self) -> list[Any]:
        return [self.d_loss_tracker, self.g_loss_tracker]

    def train_step(self, data: Any) -> dict[str, Any]:
        real, noise = data
        rows = tf.shape(real)[0]
        combined = tf.concat([self.generator(noise, training=True), real], axis=0)
        labels = tf.concat([tf.ones((rows, 1)), tf.zeros((rows, 1))], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(combined, training=True))
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        with tf.GradientTape() as tape:
            fake = self.discriminator(self.generator(noise, training=True))
            g_loss = self.loss_fn(tf.zeros((rows, 1)), fake)
        weights = self.generator.trainable_weights
        self.optimizers["g"].apply(tape.gradient(g_loss, weights), weights)
        self.d_loss_tracker.update_state(d_loss)
        self.g_loss_tracker.update_state(g_loss)
        return {m.name: m.result() for m in self.metrics}


def gan(
    seed: int,
    wrap: Any = hvd.DistributedOptimizer,
    *,
    built: bool = True,
    normalized: bool = False,
    **options: Any,
) -> GAN:
    """A GAN with weights from a seed; its models are built, or not."""
    keras.utils.set_random_seed(seed)
    inputs = [keras.Input((2,))] if built else []
    norm = [L.BatchNormalization()] if normalized else []
    discriminator = keras.Sequential([*inputs, L.Dense(4, activation="tanh"), *norm, L.Dense(1)])
    inputs = [keras.Input((LATENT,))] if built else []
    generator = keras.Sequential([*inputs, L.Dense(5, activation="tanh"), L.Dense(2)])
    model = GAN(discriminator, generator)
    model.compile(
        wrap(keras.optimizers.Adam(0.02)),
        wrap(keras.optimizers.Adam(0.01)),
        keras.losses.BinaryCrossentropy(from_logits=True),
        **options,
    )
    return model


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = (count, 2), (count, LATENT)
    real, noise = (rng.normal(size=shape).astype("float32") for shape in shapes)
    return real + 1.0, noise


def state(model: GAN) -> list[np.ndarray]:
    """The values of all variables of the models and the optimizers."""
    variables = [*model.variables, *model.d_optimizer.variables]
    return [np.array(v) for v in [*variables, *model.optimizers["g"].variables]]
