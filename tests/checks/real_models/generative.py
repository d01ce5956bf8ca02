"""Models of Keras's guides that make images: a GAN with two optimizers, and an autoencoder.

What they draw at random comes with the data here, so that it is the same in one process.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.real_models import ways
from checks.real_models.training import GLOBAL_BATCH, RealModel

layers, ops = keras.layers, keras.ops
SIZE, CODE = 8, 4
ROWS = 3 * GLOBAL_BATCH + 6  # the last batch is short: as long on all ranks, since means count it


def rings_and_noise() -> tuple[dict[str, np.ndarray]]:
    """Images of rings, and a code for each to make another one from."""
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    radius = np.hypot(across - 3.5, down - 3.5) - rng.uniform(1.5, 3.5, size=(ROWS, 1, 1))
    images = np.exp(-(radius**2))[..., None].astype("float32")
    return ({"images": images, "codes": rng.normal(size=(ROWS, CODE)).astype("float32")},)


def discriminator() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            layers.Conv2D(4, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(6, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Flatten(),
            layers.Dense(1),
        ],
        name="discriminator",
    )


def generator() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((CODE,)),
            layers.Dense(2 * 2 * 6),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Reshape((2, 2, 6)),
            layers.Conv2DTranspose(6, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2DTranspose(4, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(1, 5, padding="same", activation="sigmoid"),
        ],
        name="generator",
    )


class GAN(keras.Model):
    """As in the guide on customizing `fit`: two models, two optimizers, no `call`."""

    def __init__(self, discriminator: keras.Model, generator: keras.Model) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.d_loss_tracker = keras.metrics.Mean(name="d_loss")
        self.g_loss_tracker = keras.metrics.Mean(name="g_loss")
        self.built = True

    @property
    def metrics(self) -> list[Any]:
        return [self.d_loss_tracker, self.g_loss_tracker]

    def compile(self, d_optimizer: Any, g_optimizer: Any, loss_fn: Any) -> None:
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_fn = loss_fn

    def train_step(self, data: Any) -> dict[str, Any]:
        images, codes = data["images"], data["codes"]
        generated = self.generator(codes)
        combined = tf.concat([generated, images], axis=0)
        labels = tf.concat([tf.ones_like(codes[:, :1]), tf.zeros_like(codes[:, :1])], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(combined))
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        with tf.GradientTape() as tape:
            fooled = self.discriminator(self.generator(codes))
            g_loss = self.loss_fn(tf.zeros_like(fooled), fooled)
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        self.d_loss_tracker.update_state(d_loss)
        self.g_loss_tracker.update_state(g_loss)
        return {"d_loss": self.d_loss_tracker.result(), "g_loss": self.g_loss_tracker.result()}


def compile_gan(model: GAN, wrap: Any) -> None:
    model.compile(
        wrap(keras.optimizers.Adam(0.003, beta_1=0.5)),
        wrap(keras.optimizers.Adam(0.002)),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )


class VAE(keras.Model):
    """As in Keras's example: its losses are its own, and so are the metrics that track them."""

    def __init__(self) -> None:
        super().__init__()
        image = keras.Input((SIZE, SIZE, 1))
        hidden = layers.Dense(12, "relu")(layers.Flatten()(image))
        self.encoder = keras.Model(
            image, [layers.Dense(CODE, name="mean")(hidden), layers.Dense(CODE, name="var")(hidden)]
        )
        self.decoder = generator()
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        self.kl_loss_tracker = keras.metrics.Mean(name="kl_loss")
        self.built = True

    @property
    def metrics(self) -> list[Any]:
        return [self.total_loss_tracker, self.kl_loss_tracker]

    def losses_of(self, data: Any) -> tuple[Any, Any]:
        mean, log_variance = self.encoder(data["images"])
        code = mean + ops.exp(0.5 * log_variance) * data["codes"]
        error = keras.losses.binary_crossentropy(data["images"], self.decoder(code))
        kl_loss = -0.5 * (1 + log_variance - ops.square(mean) - ops.exp(log_variance))
        kl_loss = ops.mean(ops.sum(kl_loss, axis=1))
        return ops.mean(ops.sum(error, axis=(1, 2))) + kl_loss, kl_loss

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss, kl_loss = self.losses_of(data)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        self.total_loss_tracker.update_state(loss)
        self.kl_loss_tracker.update_state(kl_loss)
        return {"loss": self.total_loss_tracker.result(), "kl_loss": self.kl_loss_tracker.result()}


GAN_OF_RINGS = RealModel(
    lambda: GAN(discriminator(), generator()),
    rings_and_noise,
    compile_gan,
    only_fits=True,
    portable=False,
)
VAE_OF_RINGS = RealModel(
    VAE,
    rings_and_noise,
    lambda model, wrap: model.compile(wrap(keras.optimizers.Adam(0.01))),
    only_fits=True,
    portable=False,
)


def check_gan_over_ranks() -> None:
    ways.over_ranks(GAN_OF_RINGS)


def check_gan_stopped_and_resumed() -> None:
    """Both optimizers go on where they were."""
    trained = ways.stopped_and_resumed(GAN_OF_RINGS)
    for optimizer in (trained.model.d_optimizer, trained.model.g_optimizer):
        assert int(optimizer.iterations) == 8


def check_vae_over_ranks() -> None:
    ways.over_ranks(VAE_OF_RINGS)


def check_vae_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(VAE_OF_RINGS)
