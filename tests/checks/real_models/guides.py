"""Models with training steps, losses and metrics of their own, as in Keras's guides."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.real_models import ways
from checks.real_models.training import GLOBAL_BATCH, ROWS, RealModel

import hvdkit as hvd

layers, ops = keras.layers, keras.ops
EVEN_ROWS = 3 * GLOBAL_BATCH + 6  # the last batch is short, and as long on each rank


def digits(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Images whose bright columns say their class."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 3
    x = rng.uniform(0, 0.5, size=(rows, 9, 9, 1))
    x += 0.5 * (np.arange(9) // 3 == y[:, None])[:, None, :, None]
    return x.astype("float32"), y


def even_digits() -> tuple[np.ndarray, np.ndarray]:
    return digits(EVEN_ROWS)


def weighted_digits() -> tuple[np.ndarray, ...]:
    return *digits(), np.linspace(0.1, 2, ROWS).astype("float32")


def network(name: str, filters: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((9, 9, 1)),
            layers.Conv2D(filters, 3, strides=2, name=f"{name}_conv"),
            layers.LeakyReLU(negative_slope=0.2, name=f"{name}_relu"),
            layers.Flatten(name=f"{name}_flat"),
            layers.Dense(3, name=f"{name}_out"),
        ],
        name=name,
    )


class CustomModel(keras.Model):
    """The guide on customizing `fit`: a functional model whose steps are its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred, sample_weight=sample_weight)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self.followed(loss, y, y_pred, sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        loss = self.compute_loss(y=y, y_pred=y_pred, sample_weight=sample_weight)
        return self.followed(loss, y, y_pred, sample_weight)

    def followed(self, loss: Any, y: Any, y_pred: Any, sample_weight: Any) -> dict[str, Any]:
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred, sample_weight=sample_weight)
        return {metric.name: metric.result() for metric in self.metrics}


def custom() -> keras.Model:
    inner = network("custom", 4)
    return CustomModel(inner.inputs, inner.outputs, name="custom")


def compile_custom(model: Any, wrap: Any) -> None:
    model.compile(
        wrap(keras.optimizers.Adam(0.01)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou")],
    )


class Distiller(keras.Model):
    """Keras's example of distillation: the teacher's predictions are a part of the loss."""

    def __init__(self, student: keras.Model, teacher: keras.Model) -> None:
        super().__init__()
        self.teacher = teacher
        self.student = student
        self.built = True

    def compile(
        self,
        optimizer: Any,
        metrics: Any,
        student_loss_fn: Any,
        distillation_loss_fn: Any,
        alpha: float = 0.1,
        temperature: float = 3.0,
    ) -> None:
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss_fn = student_loss_fn
        self.distillation_loss_fn = distillation_loss_fn
        self.alpha = alpha
        self.temperature = temperature

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        allow_empty: bool = False,
    ) -> Any:
        teacher_pred = self.teacher(x, training=False)
        student_loss = self.student_loss_fn(y, y_pred)
        distillation_loss = self.distillation_loss_fn(
            ops.softmax(teacher_pred / self.temperature, axis=1),
            ops.softmax(y_pred / self.temperature, axis=1),
        ) * (self.temperature**2)
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss

    def call(self, x: Any) -> Any:
        return self.student(x)


def distiller() -> keras.Model:
    teacher = network("teacher", 6)
    teacher.trainable = False
    return Distiller(network("student", 4), teacher)


def compile_distiller(model: Any, wrap: Any) -> None:
    model.compile(
        wrap(keras.optimizers.Adam(0.01)),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(),
            keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou"),
        ],
        student_loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        distillation_loss_fn=keras.losses.KLDivergence(),
    )


class Siamese(keras.Model):
    """Triplets of images: the distance of two that are alike is to be the smaller one."""

    def __init__(self, embedding: keras.Model, margin: float = 0.5) -> None:
        super().__init__()
        self.embedding = embedding
        self.margin = margin
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.built = True

    def call(self, inputs: Any) -> Any:
        anchor, positive, negative = (
            self.embedding(inputs[name]) for name in ("anchor", "positive", "negative")
        )
        return ops.sum((anchor - positive) ** 2, -1), ops.sum((anchor - negative) ** 2, -1)

    def loss_of(self, inputs: Any, training: bool) -> Any:
        near, far = self(inputs, training=training)
        return ops.mean(ops.maximum(near - far + self.margin, 0.0))

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = self.loss_of(data, training=True)
        weights = self.embedding.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data: Any) -> dict[str, Any]:
        self.loss_tracker.update_state(self.loss_of(data, training=False))
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self) -> list[Any]:
        return [self.loss_tracker]


def triplets() -> tuple[dict[str, np.ndarray]]:
    x = digits(3 * EVEN_ROWS)[0]
    return ({"anchor": x[0::3], "positive": x[0::3][::-1].copy(), "negative": x[1::3]},)


CUSTOM = RealModel(custom, even_digits, compile_custom, portable=False)
UNEVEN_CUSTOM = RealModel(custom, weighted_digits, compile_custom, portable=False)
DISTILLER = RealModel(distiller, digits, compile_distiller, portable=False)
SIAMESE = RealModel(
    lambda: Siamese(network("embedding", 4)),
    triplets,
    lambda model, wrap: model.compile(wrap(keras.optimizers.Adam(0.001)), weighted_metrics=[]),
    only_fits=True,
    portable=False,
)


def check_custom_step_over_ranks() -> None:
    ways.over_ranks(CUSTOM)


def check_custom_step_on_uneven_rows_with_weights() -> None:
    """The last batch is short, and does not divide by the ranks; rows have weights."""
    ways.over_ranks(UNEVEN_CUSTOM)


def check_custom_step_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(CUSTOM)


def check_custom_step_split() -> None:
    trained = ways.split_over_devices(CUSTOM)
    assert isinstance(trained.model, CustomModel)


def check_distiller_over_ranks() -> None:
    ways.over_ranks(DISTILLER)


def check_distiller_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(DISTILLER)


def check_distiller_whose_student_is_split() -> None:
    """Each rank has the student on two devices; the teacher is whole."""

    def over_devices() -> keras.Model:
        model = distiller()
        quiet = {"times": "flops", "verbose": False}
        student = hvd.parallel.split(model.student, ["CPU:0", "CPU:1"], **quiet)
        return Distiller(student, model.teacher)

    split = RealModel(distiller, digits, compile_distiller, over_ranks=over_devices, portable=False)
    ways.trained_over_ranks(split)


def check_siamese_over_ranks() -> None:
    ways.over_ranks(SIAMESE)
