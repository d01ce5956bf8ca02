"""Constants that a traced model has captured, as constants for tf2onnx."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def captured_constants() -> Iterator[None]:
    """While inside, tf2onnx does not take captured tensors for inputs of a model.

    Tensors that no variable holds, such as the mean of a `keras.layers.Normalization`, are captured
    when TensorFlow traces a model. tf2onnx 1.17 knows of captured variables only, and asks whoever
    runs the model for all else.
    """
    from tf2onnx import convert

    original = convert.from_function

    def from_function(function: Any, *args: Any, **options: Any) -> Any:
        return original(_Function(function), *args, **options)

    convert.from_function = from_function
    try:
        yield
    finally:
        convert.from_function = original


class _Function:
    """A `tf.function` whose traces have those inputs only that are given to them."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def get_concrete_function(self, *args: Any) -> Any:
        """As that of TensorFlow's."""
        return _Trace(self._function.get_concrete_function(*args))


class _Trace:
    """A concrete function; what it has captured is no input."""

    def __init__(self, trace: Any) -> None:
        self._trace = trace

    @property
    def inputs(self) -> list[Any]:
        """The tensors that it is called with, and those that stand for variables."""
        import tensorflow as tf

        constants = {
            id(tensor)
            for tensor in self._trace.graph.internal_captures
            if tensor.dtype not in (tf.resource, tf.variant)
        }
        return [tensor for tensor in self._trace.inputs if id(tensor) not in constants]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)
