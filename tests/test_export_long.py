"""Models that people really train, exported to all formats."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from launch import ROOT, run_ranks
from test_export import SUFFIXES
from test_real_models import keras_hub

import hvdkit as hvd

pytestmark = pytest.mark.long
__all__ = ["keras_hub"]

layers = keras.layers


def mobile_net() -> keras.Model:
    """An application of Keras's, without downloaded weights."""
    return keras.applications.MobileNetV2((64, 64, 3), weights=None, classes=10)


def res_net() -> keras.Model:
    """Images of any size."""
    return keras.applications.ResNet50V2(include_top=False, weights=None, pooling="avg")


def efficient_net() -> keras.Model:
    """With layers for preprocessing in it."""
    return keras.applications.EfficientNetB0(input_shape=(64, 64, 3), weights=None, classes=10)


def u_net() -> keras.Model:
    """Links around a bottleneck, and convolutions that enlarge."""
    image = keras.Input((None, None, 1), name="image")
    down, x = [], image
    for filters in (8, 16, 32):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        down.append(x)
        x = layers.MaxPooling2D(padding="same")(x)
    for filters, other in zip((32, 16, 8), reversed(down), strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = layers.Concatenate()([_cropped(x, other), other])
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))


def _cropped(x: Any, other: Any) -> Any:
    shape = keras.ops.shape(other)
    return x[:, : shape[1], : shape[2]]


def sequence_to_sequence() -> keras.Model:
    """An encoder whose states start a decoder, with masks."""
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    embed = layers.Embedding(60, 16, mask_zero=True)
    _, *states = layers.LSTM(24, return_state=True)(embed(source))
    x = layers.LSTM(24, return_sequences=True)(embed(target), initial_state=states)
    return keras.Model([source, target], layers.Dense(60)(x))


def both_ways() -> keras.Model:
    """GRUs forwards and backwards."""
    x = keras.Input((12, 5), name="x")
    h = layers.Bidirectional(layers.GRU(8, return_sequences=True))(x)
    return keras.Model(x, layers.Dense(2)(layers.SimpleRNN(6)(h)))


FIXED = {"batch_size": 2, "length": 9}


@pytest.mark.parametrize("to", SUFFIXES)
@pytest.mark.parametrize(
    ("build", "for_litert"),
    [
        (mobile_net, {}),
        (res_net, {}),
        (efficient_net, {}),
        (u_net, {}),
        (sequence_to_sequence, FIXED),
        (both_ways, {"batch_size": 2}),
    ],
)
def test_a_real_model(
    build: Callable[[], keras.Model], for_litert: Any, to: str, tmp_path: Path
) -> None:
    options = for_litert if to == "litert" else {}
    path = tmp_path / f"model{SUFFIXES[to]}"
    assert hvd.export_model(build(), path, to, **options).difference.passed  # type: ignore[arg-type]


@pytest.mark.parametrize("to", SUFFIXES)
def test_int8_of_a_real_model(to: str, tmp_path: Path) -> None:
    exported = hvd.export_model(
        mobile_net(),
        tmp_path / f"model{SUFFIXES[to]}",
        to,
        quantize="int8",  # type: ignore[arg-type]
    )
    assert exported.quantization is not None


BERT = """
import sys
import keras, keras_hub
import hvdkit as hvd
backbone = keras_hub.models.BertBackbone(
    vocabulary_size=500, num_layers=2, num_heads=2, hidden_dim=32, intermediate_dim=64,
    max_sequence_length=64,
)
model = keras_hub.models.BertTextClassifier(backbone=backbone, num_classes=3, preprocessor=None)
for to, suffix in (("savedmodel", ""), ("onnx", ".onnx"), ("litert", ".tflite")):
    exported = hvd.export_model(model, f"{sys.argv[1]}/bert{suffix}", to=to)
    assert {each.name for each in exported.inputs} == {"token_ids", "padding_mask", "segment_ids"}
    assert {each.shape for each in exported.inputs} == {(None, None)}
    print("EXPORTED", to, exported.difference)
"""


def test_a_bert_of_keras_hub(keras_hub: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(keras_hub)])}
    job = run_ranks("python", 1, ["-c", BERT, str(tmp_path)], env=env, timeout=300)
    assert job.require_success().output.count("EXPORTED") == 3
