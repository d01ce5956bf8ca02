"""Floating-point operations of a graph's matrix products and convolutions.

A multiplication and an addition are two operations. Padding counts, as everybody counts it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# What multiplies matrices and is not counted here, or what nobody can look into.
_NOT_COUNTED = re.compile(
    r"MatMul|Matmul|Conv[23]D|Conv$|Convolution|Einsum|RNN|LSTM|GRU|FFT|PyFunc|Dot|Cholesky|"
    r"Matrix(Inverse|Solve|Triangular|Exponential|Logarithm|SquareRoot)|Determinant|Eig|Svd|Qr$|Lu$"
)
_GATES = {b"lstm": 4, b"gru": 3, b"rnn_relu": 1, b"rnn_tanh": 1}


class UnknownOperationsError(Exception):
    """The operations of a graph can't be counted; says why."""


@dataclass(frozen=True)
class Product:
    """A product of two operands.

    Attributes:
        flops: its floating-point operations.
        operands: which inputs of the operation are multiplied. The gradient of each is a product
            of the same size.
    """

    flops: float
    operands: tuple[int, int]


def product_of(operation: tf.Operation) -> Product | None:
    """The product that an operation makes, or None if it makes none.

    Args:
        operation: of a graph whose shapes are known.

    Raises:
        UnknownOperationsError: it may make one, but of which size is not known.
    """
    kind = operation.type
    if kind in _COUNTED:
        return _COUNTED[kind](operation)
    if _NOT_COUNTED.search(kind):
        raise UnknownOperationsError(f"nobody counts those of {kind} ({operation.name})")
    if not hasattr(tf.raw_ops, kind) and not kind.startswith("Horovod"):
        raise UnknownOperationsError(f"{kind} ({operation.name}) is not one of TensorFlow's")
    return None


def _shape(tensor: tf.Tensor) -> tuple[int, ...]:
    if not tensor.shape.is_fully_defined():
        raise UnknownOperationsError(f"the shape of {tensor.name} is not known: {tensor.shape}")
    return tuple(tensor.shape)


def _matrices(operation: tf.Operation) -> Product:
    left = _shape(operation.inputs[0])
    batched = operation.type != "MatMul"
    transposed = operation.get_attr("adj_x" if batched else "transpose_a")
    inner = left[-2] if transposed else left[-1]
    return Product(2.0 * math.prod(_shape(operation.outputs[0])) * inner, (0, 1))


def _convolution(operation: tf.Operation) -> Product:
    *window, channels, _ = _shape(operation.inputs[1])  # those of a group
    places = math.prod(_shape(operation.outputs[0]))
    return Product(2.0 * places * math.prod(window) * channels, (0, 1))


def _depthwise(operation: tf.Operation) -> Product:
    *window, _, _ = _shape(operation.inputs[1])
    return Product(2.0 * math.prod(_shape(operation.outputs[0])) * math.prod(window), (0, 1))


def _transposed(operation: tf.Operation) -> Product:
    """A convolution the other way round: as many operations as that one."""
    *window, channels, _ = _shape(operation.inputs[1])
    places = math.prod(_shape(operation.inputs[2]))
    return Product(2.0 * places * math.prod(window) * channels, (1, 2))


def _transposed_depthwise(operation: tf.Operation) -> Product:
    *window, _, _ = _shape(operation.inputs[1])
    return Product(2.0 * math.prod(_shape(operation.inputs[2])) * math.prod(window), (1, 2))


def _einsum(operation: tf.Operation) -> Product | None:
    equation = operation.get_attr("equation").decode().replace(" ", "")
    inputs, result = equation.split("->")
    terms = inputs.split(",")
    if len(terms) < 2:
        return None  # a sum or a transposition
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, operation.inputs, strict=True):
        sizes |= dict(zip(*_labelled(term, _shape(tensor)), strict=True))
    if set(sizes) == set(_labelled(result, _shape(operation.outputs[0]))[0]):
        return None  # nothing is summed up: it is no product of matrices
    return Product(2.0 * math.prod(sizes.values()), (0, 1))


def _labelled(term: str, shape: Sequence[int]) -> tuple[list[str], Sequence[int]]:
    """A label for each axis; those of "..." are counted from its right, as they are broadcast."""
    before, dots, after = term.partition("...")
    count = len(shape) - len(before) - len(after) if dots else 0
    return [*before, *[f"...{i}" for i in range(count, 0, -1)], *after], shape


def _cudnn_rnn(operation: tf.Operation) -> Product:
    """All products of a recurrent layer with its weights, which are in one vector with biases."""
    steps, rows, _ = _shape(operation.inputs[0])
    layers, _, units = _shape(operation.inputs[1])
    (numbers,) = _shape(operation.inputs[3])
    biases = 2 * layers * units * _GATES[operation.get_attr("rnn_mode")]
    if operation.get_attr("num_proj"):
        raise UnknownOperationsError(f"nobody counts those of a projection ({operation.name})")
    return Product(2.0 * steps * rows * (numbers - biases), (0, 3))


_COUNTED: dict[str, Callable[[Any], Product | None]] = {
    "MatMul": _matrices,
    "BatchMatMul": _matrices,
    "BatchMatMulV2": _matrices,
    "BatchMatMulV3": _matrices,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "Conv3DBackpropInputV2": _transposed,
    "DepthwiseConv2dNativeBackpropInput": _transposed_depthwise,
    "Einsum": _einsum,
    "CudnnRNNV3": _cudnn_rnn,
}
