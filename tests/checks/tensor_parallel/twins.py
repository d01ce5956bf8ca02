"""A divided model or layer, and its undivided twin of Keras's layers, from the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import Sum, ops
from hvdkit.mesh.layout import layout_of
from hvdkit.state.unsharded import assign_unsharded_values, unsharded_values

from . import meshes


def twins(make: Callable[[bool], Any]) -> tuple[Any, Any]:
    """`make(True)`, the divided, and `make(False)`, from one seed."""
    made = []
    for divided in (True, False):
        keras.utils.set_random_seed(7)
        made.append(make(divided))
    return made[0], made[1]


def same_weights(divided: Any, plain: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Assert that the divided layer's whole weights are those of its twin."""
    for variable, mine, expected in zip(
        plain.weights, unsharded_values(divided.weights), plain.get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, expected, rtol, atol, err_msg=variable.path)


def other_weights(divided: Any, plain: Any) -> None:
    """Give both the same weights, none of them zero, such as biases are at first."""
    rng = np.random.default_rng(3)
    values = [w + rng.normal(size=w.shape).astype(w.dtype) * 0.3 for w in plain.get_weights()]
    plain.set_weights(values)
    assign_unsharded_values(divided.weights, values)


@dataclass
class Result:
    """What a layer gave, the loss on it, and gradients."""

    output: np.ndarray
    inputs: list[np.ndarray]
    weights: list[np.ndarray]


def run(layer: Any, call: Callable[..., Any], inputs: list[np.ndarray], upstream: Any) -> Result:
    """Call a layer in a `tf.function` and go back from `upstream`; weights' gradients are whole."""
    tensors = [tf.constant(x) for x in inputs]

    @tf.function
    def both() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = call(layer, *tensors)
            loss = tf.reduce_sum(output * tf.cast(upstream, output.dtype))
            loss += sum(tf.cast(penalty, loss.dtype) for penalty in layer.losses)
        variables = [v.value for v in layer.trainable_weights]
        return output, *tape.gradient(loss, [tensors, variables])

    output, of_inputs, of_weights = both()
    return Result(
        np.asarray(output),
        [np.asarray(g) for g in of_inputs if g is not None],
        [whole_gradient(g, v) for g, v in zip(of_weights, layer.trainable_weights, strict=True)],
    )


def whole_gradient(gradient: Any, variable: Any) -> np.ndarray:
    """The gradient of the whole variable."""
    gradient, layout = summed(tf.convert_to_tensor(gradient), variable), layout_of(variable)
    if layout is None or not layout.shards:
        return np.asarray(gradient)
    stacked = ops.allgather(gradient[None], process_set=layout.mesh.tensor_set)
    return np.concatenate(list(np.asarray(stacked)), layout.shards["tensor"])


def summed(gradient: tf.Tensor, variable: Any) -> tf.Tensor:
    """The gradient, where it is a part of a sum over the tensor group the sum."""
    layout = layout_of(variable)
    if layout is None or not layout.partial:
        return gradient
    return ops.allreduce(gradient, Sum, process_set=layout.mesh.tensor_set)


def compare(mine: Result, expected: Result, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Assert that outputs and gradients are equal to float tolerance."""
    meshes.close(mine.output, expected.output, rtol, atol)
    for name in ("inputs", "weights"):
        for one, other in zip(getattr(mine, name), getattr(expected, name), strict=True):
            assert np.abs(other).max() > 1e-3, "a gradient of zero proves nothing"
            meshes.close(one, other, rtol, atol)
