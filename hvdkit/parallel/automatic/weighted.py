"""Along which axes the layers with large kernels can be sharded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from hvdkit.parallel.automatic.kinds import Columns

_SUMS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
_ELLIPSIS = "ZYXWVUTS"  # letters for the axes that "..." stands for


def is_projection(layer: Any) -> bool:
    """Whether a layer multiplies by a kernel as Keras's `Dense` or `EinsumDense` does."""
    return _calls(layer, keras.layers.Dense) or _calls(layer, keras.layers.EinsumDense)


def is_embedding(layer: Any) -> bool:
    """Whether a layer looks up vectors as Keras's `Embedding` or `ReversibleEmbedding` does."""
    kinds = (keras.layers.Embedding, keras.layers.ReversibleEmbedding)
    return any(_calls(layer, kind) for kind in kinds)


def is_dividable(layer: Any) -> bool:
    """Whether there is a way to shard a layer of this kind."""
    return is_projection(layer) or is_embedding(layer)


def columns_of(layer: Any, rank: int) -> Columns:
    """How the outputs of a `Dense` or `EinsumDense` can be sharded.

    Args:
        layer: the layer.
        rank: number of axes of its input.

    Raises:
        ValueError: they can't be, with the reason.
    """
    if not isinstance(layer, keras.layers.EinsumDense):
        return Columns(1, None if layer.bias is None else 0, rank - 1)
    left, kernel, out = _letters(layer.equation, rank)
    letter = next((x for x in kernel if x in out and x not in left), None)
    if letter is None:
        raise ValueError(f"its equation {layer.equation!r} makes no new axis")
    bias = None
    if layer.bias is not None:
        axes = [i for i, x in enumerate(out) if x in layer.bias_axes]
        if letter not in layer.bias_axes:
            raise ValueError("its bias is the same for all that would be sharded")
        bias = out.index(letter) - min(axes)
    return Columns(kernel.index(letter), bias, out.index(letter))


def row_axis(layer: Any, axis: int, rank: int) -> int | None:
    """The axis of the kernel over which a layer sums an axis of its input; None if it does not.

    Args:
        layer: a `Dense` or `EinsumDense`.
        axis: of the input.
        rank: number of axes of the input.
    """
    if not isinstance(layer, keras.layers.EinsumDense):
        return 0 if axis == rank - 1 else None
    left, kernel, out = _letters(layer.equation, rank)
    letter = left[axis]
    return kernel.index(letter) if letter in kernel and letter not in out else None


def output_shape(layer: Any, shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """The shape of what an `EinsumDense` returns, with what Keras leaves open in it."""
    left, kernel, out = _letters(layer.equation, len(shape))
    sizes = {
        **dict(zip(left, shape, strict=True)),
        **dict(zip(kernel, layer.kernel.shape, strict=True)),
    }
    return tuple(sizes[letter] for letter in out)


def obstacle(layer: Any) -> str | None:
    """What of a layer's options needs whole weights; None if nothing does."""
    if not layer.built:
        return "it is not built"
    if layer.quantization_mode is not None:
        return f"it is quantized ({layer.quantization_mode})"
    if layer.activity_regularizer is not None:
        return "its activity_regularizer looks at all of its output"
    for variable in layer.weights:
        if variable.constraint is not None and not isinstance(
            variable.constraint, keras.constraints.NonNeg
        ):
            return f"its constraint {type(variable.constraint).__name__} looks at a whole weight"
        if variable.regularizer is not None and not isinstance(variable.regularizer, _SUMS):
            return f"its regularizer {type(variable.regularizer).__name__} is no sum over a weight"
    return None


def indivisible(what: str, size: int, degree: int) -> str | None:
    """Why a size does not divide over a tensor group; None if it does."""
    return None if size % degree == 0 else f"{what} {size} does not divide by {degree}"


def _calls(layer: Any, kind: type) -> bool:
    """Whether a layer's `call` is that of one of Keras's classes."""
    return isinstance(layer, kind) and type(layer).call is kind.call  # type: ignore[attr-defined]


def _letters(equation: str, rank: int) -> tuple[str, str, str]:
    """The letters of an equation's input, kernel and output."""
    given, out = equation.replace(" ", "").split("->")
    left, kernel = given.split(",")
    dots = _ELLIPSIS[: rank - len(left.replace("...", ""))]
    return left.replace("...", dots), kernel, out.replace("...", dots)
