"""A U-Net that segments images, and KerasHub's vision transformer."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub
import numpy as np
from checks.real_models import files, ways
from checks.real_models.applications import images
from checks.real_models.training import ROWS, RealModel, classifying
from checks.real_models.weights import with_sync_batch_normalization

import hvdkit as hvd

layers = keras.layers
SIZE = 16


def segmented() -> tuple[np.ndarray, np.ndarray]:
    """Noisy images with a rectangle of one of two colours, and which pixels are of which."""
    rng = np.random.default_rng(0)
    classes = np.zeros((ROWS, SIZE, SIZE), "int32")
    for row in range(ROWS):
        top, left = rng.integers(0, SIZE - 6, size=2)
        classes[row, top : top + 6, left : left + 6] = 1 + row % 2
    x = np.eye(3)[classes] + rng.normal(0, 0.3, size=(ROWS, SIZE, SIZE, 3))
    return x.astype("float32"), classes


def unet() -> keras.Model:
    """As in Keras's example of image segmentation, with tensors that skip to the other side."""
    x = images_in = keras.Input((SIZE, SIZE, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(x)))
    skipping = []
    for filters in (8, 10):
        skipping.append(x)
        residual = layers.Conv2D(filters, 1, strides=2, padding="same")(x)
        x = layers.SeparableConv2D(filters, 3, padding="same")(layers.Activation("relu")(x))
        x = layers.MaxPooling2D(3, strides=2, padding="same")(layers.BatchNormalization()(x))
        x = layers.add([x, residual])
    for filters in (8, 6):
        x = layers.Conv2DTranspose(filters, 3, padding="same")(layers.Activation("relu")(x))
        x = layers.UpSampling2D(2)(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, skipping.pop()])
    x = layers.Conv2D(3, 3, activation="softmax", padding="same")(x)
    return keras.Model(images_in, x, name="unet")


def segmenting(model: Any, wrap: Any) -> None:
    model.compile(
        wrap(keras.optimizers.Adam(0.005)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou")],
    )


def vit() -> keras.Model:
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    return keras_hub.models.ViTImageClassifier(backbone, num_classes=3)


def adam() -> Any:
    return keras.optimizers.Adam(0.01)


UNET = RealModel(
    unet,
    segmented,
    segmenting,
    over_ranks=lambda: with_sync_batch_normalization(unet()),
    portable=False,
    atol=3e-3,  # of 1792 pixels some are between two classes, and roundings decide
)
VIT = RealModel(vit, images, classifying(adam, from_logits=True))


def check_unet_over_ranks() -> None:
    ways.over_ranks(UNET)


def check_unet_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(UNET)


def check_unet_split() -> None:
    ways.split_over_devices(UNET)


def check_unet_in_a_pipeline() -> None:
    """With one micro-batch, which has all rows for the statistics."""
    ways.pipeline(UNET, micro_batches=1, schedule=hvd.parallel.schedules.GPipe())


def check_vit_over_ranks() -> None:
    ways.over_ranks(VIT)


def check_vit_split() -> None:
    ways.split_over_devices(VIT, micro_batches=2)


def check_vit_in_a_pipeline() -> None:
    ways.pipeline(VIT, micro_batches=2)


def check_vision_in_plain_keras() -> None:
    """What the checks before have written."""
    files.require_plain_keras_reads_them("keras_hub")
