"""Models that are planned by name."""

from __future__ import annotations

from hvdkit.planner.transformer import TransformerShape
from hvdkit.planner.transformer_work import Transformer
from hvdkit.planner.work import MeasuredModel

_SHAPES = {
    # layers, width, heads, context, vocabulary
    "gpt2-small": (12, 768, 12, 1024, 50304),
    "gpt2-medium": (24, 1024, 16, 1024, 50304),
    "gpt2-large": (36, 1280, 20, 1024, 50304),
    "gpt2-xl": (48, 1600, 25, 1024, 50304),
    "bert-large": (24, 1024, 16, 512, 30592),
    "gpt3-1.3b": (24, 2048, 16, 2048, 51200),
    "gpt3-6.7b": (32, 4096, 32, 2048, 51200),
    "gpt3-13b": (40, 5120, 40, 2048, 51200),
    "gpt3-175b": (96, 12288, 96, 2048, 51200),
    "gpt-530b": (105, 20480, 128, 2048, 51200),
    "gpt-1t": (128, 25600, 160, 2048, 51200),
}
_IMAGES = {
    # weights, FLOPs of a forward pass, numbers kept: keras_model.measured_model counts them
    "inception-v3": (23851784, 11.43e9, 32.3e6),
    "mobilenet-v2": (3538984, 0.602e9, 21.7e6),
    "resnet-50": (25636712, 7.716e9, 37.0e6),
    "resnet-101": (44707176, 15.14e9, 55.7e6),
    "resnet-152": (60419944, 22.56e9, 78.9e6),
    "vgg-16": (138357544, 30.94e9, 15.1e6),
}
PRESETS = (*_SHAPES, *_IMAGES)
"""Their names."""


def preset(name: str) -> Transformer | MeasuredModel:
    """A model by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name in _SHAPES:
        return Transformer(TransformerShape(*_SHAPES[name]), name)
    if name in _IMAGES:
        return MeasuredModel(name, *_IMAGES[name])
    raise ValueError(f"there is no model {name!r}: there are {', '.join(PRESETS)}.")
