"""How messages, and comparisons of ranks, describe a tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def dtype_and_shape(dtype: Any, shape: Iterable[int | None]) -> str:
    """A type and a shape in words, such as "float32 (4, 2)".

    Args:
        dtype: of TensorFlow, NumPy or Keras, or its name.
        shape: the sizes; None for one that is not known, and no sizes for a scalar.

    Example:
        >>> dtype_and_shape("float32", (4, None))
        'float32 (4, None)'
    """
    return f"{getattr(dtype, 'name', dtype)} {tuple(shape)}"
