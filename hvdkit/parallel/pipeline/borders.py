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

    A message with the loss so far and the sizes of the tensors goes ahead of them; then both sides
    know all shapes.

    Args:
        messages: the ranks of the pipeline.
        number: which border it is, the same on both ranks.
        peer: the place of the other rank in the pipeline.
        tensors: what goes over it.
    """

    def __init__(
        self, messages: PointToPoint, number: int, peer: int, tensors: Sequence[Tensor]
    ) -> None:
        self._messages = messages
        self._forward_tag, self._backward_tag = 2 * number, 2 * number + 1
        self._peer = peer
        self._tensors = list(tensors)
        # All are sent: where shapes broadcast, Keras may take None for 1.
        self._sizes = sum(len(t.shape) for t in tensors)
        self._buffers = _Buffers()

    def send_forward(self, tensors: Sequence[tf.Tensor], loss: float) -> None:
        """See `Border`."""
        sizes = [size for tensor in tensors for size in tensor.shape]
        self._send(np.array([loss, *sizes], np.float64), self._forward_tag)
        for tensor in tensors:
            self._send(tensor.numpy(), self._forward_tag)

    def receive_forward(self) -> tuple[list[tf.Tensor], float]:
        """See `Border`."""
        header = self._receive((1 + self._sizes,), np.float64, self._forward_tag)
        loss, sizes = float(header[0]), iter(header[1:].astype(int).tolist())
        shapes = [tuple(next(sizes) for _ in t.shape) for t in self._tensors]
        received = [
            self._tensor(shape, tensor.dtype, self._forward_tag)
            for shape, tensor in zip(shapes, self._tensors, strict=True)
        ]
        return received, loss

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


class _Buffers:
    """Arrays to receive into, one for each shape and type."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[tuple[int, ...], np.dtype[Any]], np.ndarray] = {}

    def get(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        key = shape, dtype
        if key not in self._arrays:
            self._arrays[key] = np.empty(shape, dtype)
        return self._arrays[key]
