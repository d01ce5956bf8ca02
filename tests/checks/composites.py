"""Optimizers that hand gradients to others, of which checks try each."""

from __future__ import annotations

from typing import Any

from keras import optimizers


def scaled() -> Any:
    """Loss scaling around an optimizer that accumulates, and clips."""
    return optimizers.LossScaleOptimizer(
        optimizers.SGD(0.1, gradient_accumulation_steps=2, global_clipnorm=0.5),
        initial_scale=8.0,
    )


def several() -> Any:
    """One optimizer for kernels, and one for biases."""
    kernels, biases = optimizers.Adam(0.02), optimizers.SGD(0.1)
    return optimizers.MultiOptimizer(lambda v: biases if v.name == "bias" else kernels)


COMPOSITES = (scaled, several)
