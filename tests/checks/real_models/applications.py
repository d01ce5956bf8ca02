"""Image classifiers of `keras.applications`, up to one of their inner layers or whole.

`BatchNormalization` computes with the rows of a batch, so a training over ranks equals one process
with `SyncBatchNormalization` in its place, or where it is frozen, as in fine-tuning.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from checks.real_models import files, ways
from checks.real_models.training import ROWS, RealModel, classifying
from checks.real_models.weights import with_sync_batch_normalization

import hvdkit as hvd

layers, applications = keras.layers, keras.applications
SHAPE = (32, 32, 3)


def images() -> tuple[np.ndarray, np.ndarray]:
    """Noise with a spot of another colour for each class."""
    rng = np.random.default_rng(0)
    y = np.arange(ROWS) % 3
    x = rng.uniform(0, 0.3, size=(ROWS, *SHAPE))
    for row, label in enumerate(y):
        x[row, 8 * label : 8 * label + 8, :, label] += 0.7
    return x.astype("float32"), y


def classifier(base: Any, last: str) -> keras.Model:
    """The base up to a layer, with a head for three classes."""
    features = layers.GlobalAveragePooling2D()(base.get_layer(last).output)
    return keras.Model(base.input, layers.Dense(3, "softmax")(features), name=base.name)


def frozen_statistics(model: keras.Model) -> keras.Model:
    """The model with its `BatchNormalization` layers in inference mode."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    return model


def mobilenet() -> keras.Model:
    base = applications.MobileNetV2(SHAPE, alpha=0.35, weights=None, include_top=False)
    return classifier(base, "block_3_expand_relu")


def efficientnet() -> keras.Model:
    """A frozen base, which normalizes with what it has learned of images, and a head to train.

    Keras passes `training` of the outer model on in spite of `training=False`, so the base's
    dropout would draw, on each rank for its own rows.
    """
    base = applications.EfficientNetB0(input_shape=SHAPE, weights=None, include_top=False)
    for layer in base.layers:
        if isinstance(layer, layers.Normalization):
            layer.adapt(np.random.uniform(-0.5, 1.5, size=(40, *SHAPE)))
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    base = keras.Model(base.input, base.get_layer("block2b_add").output, name="base")
    base.trainable = False
    x = keras.Input(SHAPE)
    features = layers.GlobalAveragePooling2D()(base(255 * x, training=False))
    hidden = layers.Dense(16, "relu", name="hidden")(features)
    return keras.Model(x, layers.Dense(3, "softmax", name="head")(hidden))


def resnet() -> keras.Model:
    base = applications.ResNet50V2(input_shape=SHAPE, weights=None, include_top=False)
    return frozen_statistics(classifier(base, "conv2_block2_out"))


def densenet() -> keras.Model:
    base = applications.DenseNet121(input_shape=SHAPE, weights=None, include_top=False)
    return frozen_statistics(classifier(base, "conv2_block3_concat"))


def sgd() -> Any:
    return keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)


MOBILENET = RealModel(
    mobilenet,
    images,
    classifying(sgd),
    over_ranks=lambda: with_sync_batch_normalization(mobilenet()),
    portable=False,
)
EFFICIENTNET = RealModel(
    efficientnet, images, classifying(lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01))
)
RESNET = RealModel(resnet, images, classifying(lambda: keras.optimizers.Adam(0.001)))
DENSENET = RealModel(densenet, images, classifying(sgd))


def check_mobilenet_over_ranks() -> None:
    ways.over_ranks(MOBILENET)


def check_mobilenet_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(MOBILENET)


def check_mobilenet_split() -> None:
    ways.split_over_devices(MOBILENET)


def check_mobilenet_in_a_pipeline() -> None:
    """With one micro-batch, which has all rows for the statistics."""
    ways.pipeline(MOBILENET, micro_batches=1, schedule=hvd.parallel.schedules.GPipe())


def check_efficientnet_over_ranks() -> None:
    ways.over_ranks(EFFICIENTNET)


def check_efficientnet_split() -> None:
    ways.split_over_devices(EFFICIENTNET, micro_batches=2)


def check_efficientnet_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(EFFICIENTNET)


def check_efficientnet_in_a_pipeline() -> None:
    ways.pipeline(EFFICIENTNET, micro_batches=2, given=True)


def check_resnet_over_ranks() -> None:
    ways.over_ranks(RESNET)


def check_resnet_split() -> None:
    ways.split_over_devices(RESNET, micro_batches=2)


def check_resnet_in_a_pipeline() -> None:
    ways.pipeline(RESNET, micro_batches=2)


def check_densenet_over_ranks() -> None:
    ways.over_ranks(DENSENET)


def check_densenet_split() -> None:
    ways.split_over_devices(DENSENET)


def check_densenet_in_a_pipeline() -> None:
    ways.pipeline(DENSENET, micro_batches=3)


def check_applications_in_plain_keras() -> None:
    """What the checks before have written."""
    files.require_plain_keras_reads_them()
