"""What goes from one piece to the next, and the gradients that come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from hvdkit.engine.point_to_point import PointToPoint


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor that goes from piece to piece.

    Attributes:
        shape: its shape; None for what depends on the batch, before there is one.
        dtype: its type.
    """

    shape: tuple[int | None, ...]
    dtype: tf.DType


class Border(Protocol):
    """The place between two pieces; one end sends, the other receives, in the same order.

    Forward go the tensors and the loss so far, backward the gradients of the float tensors.
    """

    def send_forward(self, tensors: Sequence[tf.Tensor], loss: float) -> None:
        """Send the tensors of a micro-batch to the next piece."""
        ...

    def receive_forward(self) -> tuple[list[tf.Tensor], float]:
        """The tensors that the piece before has sent."""
        ...

    def send_backward(self, gradients: Sequence[tf.Tensor]) -> None:
        """Send the gradients of a micro-batch to the piece before."""
        ...

    def receive_backward(self, of: Sequence[Tensor]) -> list[tf.Tensor]:
        """The gradients that the next piece has sent.

        Args:
            of: shapes and types of the float tensors that were sent forward.
        """
        ...


class LocalBorder:
    """Between two pieces of one rank."""

    def __init__(self) -> None:
        self._forward: list[tuple[list[tf.Tensor], float]] = []
        self._backward: list[list[tf.Tensor]] = []

    def send_forward(self, tensors: Sequence[tf.Tensor], loss: float) -> None:
        """See `Border`."""
        self._forward.append((list(tensors), loss))

    def receive_forward(self) -> tuple[list[tf.Tensor], float]:
        """See `Border`."""
        return self._forward.pop(0)

    def send_backward(self, gradients: Sequence[tf.Tensor]) -> None:
        """See `Border`."""
        self._backward.append(list(gradients))

    def receive_backward(self, of: Sequence[Tensor]) -> list[tf.Tensor]:
        """See `Border`."""
        return self._backward.pop(0)


class RemoteBorder:
    """Between two pieces of different ranks.

    A message with the loss so far and the tensors' types and shapes goes ahead of them: what Keras
    knows of these before there is a batch need not be all, nor true.

    Args:
        messages: the ranks of the pipeline.
        number: which border it is, the same on both ranks.
        peer: the place of the other rank in the pipeline.
        count: how many tensors go over it.
    """

    def __init__(self, messages: PointToPoint, number: int, peer: int, count: int) -> None:
        self._messages = messages
        self._forward_tag, self._backward_tag = 2 * number, 2 * number + 1
        self._peer = peer
        self._count = count
        self._buffers = _Buffers()

    def send_forward(self, tensors: Sequence[tf.Tensor], loss: float) -> None:
        """See `Border`."""
        self._send(np.array([loss, *described(tensors)], np.float64), self._forward_tag)
        for tensor in tensors:
            self._send(tensor.numpy(), self._forward_tag)

    def receive_forward(self) -> tuple[list[tf.Tensor], float]:
        """See `Border`."""
        size = 1 + self._count * DESCRIPTION
        header = self._receive((size,), np.float64, self._forward_tag).tolist()
        received = [
            self._tensor(tensor.shape, tensor.dtype, self._forward_tag)
            for tensor in from_description(header[1:])
        ]
        return received, header[0]

    def send_backward(self, gradients: Sequence[tf.Tensor]) -> None:
        """See `Border`."""
        for gradient in gradients:
            self._send(gradient.numpy(), self._backward_tag)

    def receive_backward(self, of: Sequence[Tensor]) -> list[tf.Tensor]:
        """See `Border`."""
        return [self._tensor(t.shape, t.dtype, self._backward_tag) for t in of]

    def _send(self, array: Any, tag: int) -> None:
        self._messages.send(np.asarray(array), self._peer, tag)

    def _receive(self, shape: tuple[int, ...], dtype: Any, tag: int) -> np.ndarray:
        buffer = self._buffers.get(shape, np.dtype(dtype))
        return self._messages.receive(buffer, self._peer, tag)

    def _tensor(self, shape: Sequence[Any], dtype: tf.DType, tag: int) -> tf.Tensor:
        # TensorFlow copies the array, so the buffer is free again.
        return tf.constant(self._receive(tuple(shape), dtype.as_numpy_dtype, tag))


_MOST_DIMENSIONS = 8
DESCRIPTION = 2 + _MOST_DIMENSIONS
"""How many numbers describe a tensor: its type, its number of dimensions, and these."""


def described(tensors: Sequence[Any]) -> list[float]:
    """The types and shapes of tensors as numbers that can be sent.

    Raises:
        ValueError: a tensor has more than 8 dimensions.
    """
    numbers: list[float] = []
    for tensor in tensors:
        shape = tuple(tensor.shape)
        if len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of shape {shape} can't be sent from stage to stage.")
        filled = [*shape, *[0] * (_MOST_DIMENSIONS - len(shape))]
        numbers += [float(n) for n in (tensor.dtype.as_datatype_enum, len(shape), *filled)]
    return numbers


def from_description(numbers: Sequence[float]) -> list[Tensor]:
    """The opposite of `described`."""
    found = []
    for start in range(0, len(numbers), DESCRIPTION):
        dtype, rank, *shape = (int(n) for n in numbers[start : start + DESCRIPTION])
        found.append(Tensor(tuple(shape[:rank]), tf.as_dtype(dtype)))
    return found


class _Buffers:
    """Arrays to receive into, one for each shape and type."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[tuple[int, ...], np.dtype[Any]], np.ndarray] = {}

    def get(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        key = shape, dtype
        if key not in self._arrays:
            self._arrays[key] = np.empty(shape, dtype)
        return self._arrays[key]
