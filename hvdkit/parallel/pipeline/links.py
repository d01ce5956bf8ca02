"""Links between chunks: activations go over them to the next one, and gradients come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from hvdkit.engine.point_to_point import PointToPoint


@dataclass(frozen=True)
class Signature:
    """The shape and the type of a tensor that goes from chunk to chunk.

    Attributes:
        shape: its shape; None for what depends on the batch, before there is one.
        dtype: its type.
    """

    shape: tuple[int | None, ...]
    dtype: tf.DType


class Link(Protocol):
    """Between two chunks; one end sends, the other receives, in the same order.

    Forward go the tensors and the loss so far, backward the gradients of the float tensors.
    """

    def send_forward(self, tensors: Sequence[tf.Tensor], loss: float) -> None:
        """Send the tensors of a micro-batch to the next chunk."""
        ...

    def receive_forward(self) -> tuple[list[tf.Tensor], float]:
        """The tensors that the chunk before has sent."""
        ...

    def send_backward(self, gradients: Sequence[tf.Tensor]) -> None:
        """Send the gradients of a micro-batch to the chunk before."""
        ...

    def receive_backward(self, of: Sequence[Signature]) -> list[tf.Tensor]:
        """The gradients that the next chunk has sent.

        Args:
            of: shapes and types of the float tensors that were sent forward.
        """
        ...


@dataclass(frozen=True)
class Ends:
    """What comes into a chunk and goes out of it.

    Attributes:
        given: for each of its inputs, which of the model's inputs it is; None if it is sent.
        before: the link to the chunk before it; None for the first.
        after: the link to the next chunk; None for the last.
    """

    given: Sequence[int | None]
    before: Link | None
    after: Link | None


class LocalLink:
    """Between two chunks of one rank."""

    def __init__(self) -> None:
        self._forward: list[tuple[list[tf.Tensor], float]] = []
        self._backward: list[list[tf.Tensor]] = []

    def send_forward(self, tensors: Sequence[tf.Tensor], loss: float) -> None:
        """See `Link`."""
        self._forward.append((list(tensors), loss))

    def receive_forward(self) -> tuple[list[tf.Tensor], float]:
        """See `Link`."""
        return self._forward.pop(0)

    def send_backward(self, gradients: Sequence[tf.Tensor]) -> None:
        """See `Link`."""
        self._backward.append(list(gradients))

    def receive_backward(self, of: Sequence[Signature]) -> list[tf.Tensor]:
        """See `Link`."""
        return self._backward.pop(0)


class RemoteLink:
    """Between two chunks of different ranks.

    A message with the loss so far and the tensors' types and shapes goes ahead of them: what Keras
    knows of these before there is a batch need not be all, nor true.

    Args:
        messages: the ranks of the pipeline.
        number: which link it is, the same on both ranks.
        peer: the stage of the other rank.
        count: how many tensors go over it.
    """

    def __init__(self, messages: PointToPoint, number: int, peer: int, count: int) -> None:
        self._messages = messages
        self._forward_tag, self._backward_tag = 2 * number, 2 * number + 1
        self._peer = peer
        self._count = count
        self._buffers = _Buffers()

    def send_forward(self, tensors: Sequence[tf.Tensor], loss: float) -> None:
        """See `Link`."""
        self._send(np.array([loss, *signatures_as_numbers(tensors)], np.float64), self._forward_tag)
        for tensor in tensors:
            self._send(tensor.numpy(), self._forward_tag)

    def receive_forward(self) -> tuple[list[tf.Tensor], float]:
        """See `Link`."""
        size = 1 + self._count * NUMBERS_OF_TENSOR
        header = self._receive((size,), np.float64, self._forward_tag).tolist()
        received = [
            self._tensor(tensor.shape, tensor.dtype, self._forward_tag)
            for tensor in signatures_from_numbers(header[1:])
        ]
        return received, header[0]

    def send_backward(self, gradients: Sequence[tf.Tensor]) -> None:
        """See `Link`."""
        for gradient in gradients:
            self._send(gradient.numpy(), self._backward_tag)

    def receive_backward(self, of: Sequence[Signature]) -> list[tf.Tensor]:
        """See `Link`."""
        return [self._tensor(t.shape, t.dtype, self._backward_tag) for t in of]

    def _send(self, array: Any, tag: int) -> None:
        self._messages.send(np.asarray(array), self._peer, tag)

    def _receive(self, shape: tuple[int, ...], dtype: Any, tag: int) -> np.ndarray:
        buffer = self._buffers.get(shape, np.dtype(dtype))
        return self._messages.receive(buffer, self._peer, tag)

    def _tensor(self, shape: Sequence[Any], dtype: tf.DType, tag: int) -> tf.Signature:
        # TensorFlow copies the array, so the buffer is free again.
        return tf.constant(self._receive(tuple(shape), dtype.as_numpy_dtype, tag))


_MOST_DIMENSIONS = 8
NUMBERS_OF_TENSOR = 2 + _MOST_DIMENSIONS
"""How many numbers describe a tensor: its type, its number of dimensions, and these."""


def signatures_as_numbers(tensors: Sequence[Any]) -> list[float]:
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


def signatures_from_numbers(numbers: Sequence[float]) -> list[Signature]:
    """The opposite of `signatures_as_numbers`."""
    found = []
    for start in range(0, len(numbers), NUMBERS_OF_TENSOR):
        dtype, rank, *shape = (int(n) for n in numbers[start : start + NUMBERS_OF_TENSOR])
        found.append(Signature(tuple(shape[:rank]), tf.as_dtype(dtype)))
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
