"""What a runtime is: an exported model, with what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hvdkit.errors import ExportError, ModelInputError

TEXT = "str"
"""The dtype of text: arrays of Python's `str`, with NumPy's dtype `object`."""


@dataclass(frozen=True)
class TensorSpec:
    """What an input or an output of a model is.

    Attributes:
        name: its name, unique among the inputs, or among the outputs.
        dtype: NumPy's name of it, such as "float32"; "bfloat16"; "str" for text.
        shape: one number a dimension, the batch first; None where any size will do.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype} ({sizes})"


class Runtime(Protocol):
    """A model that a runtime has loaded. It may be called by several threads at once.

    Attributes:
        inputs: what it takes.
        outputs: what it gives.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once.

        Args:
            inputs: an array for each of its inputs, by name, with the dtype of its spec and a
                shape that fits it; for text, arrays of `str` or of UTF-8 bytes.

        Returns:
            An array for each output, by name; text as arrays of `str`.

        Raises:
            ModelInputError: a name, a dtype or a shape does not fit.
            ExportError: the runtime could not run it.
        """
        ...


def checked(inputs: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """The inputs in the order of their specs.

    Raises:
        ModelInputError: they are not what the specs say; the message says what is asked for.
    """
    names = [spec.name for spec in specs]
    missing = [name for name in names if name not in inputs]
    unknown = [name for name in inputs if name not in names]
    if missing or unknown:
        raise ModelInputError(
            f"{'no input ' + ', '.join(missing) if missing else ''}"
            f"{' and ' if missing and unknown else ''}"
            f"{'there is no input named ' + ', '.join(unknown) if unknown else ''}: "
            f"the model takes {', '.join(names)}."
        )
    found = {}
    for spec in specs:
        array = np.asarray(inputs[spec.name])
        if _dtype(array) != spec.dtype:
            raise ModelInputError(f"{spec} was given an array of {_dtype(array)}.")
        if len(array.shape) != len(spec.shape) or any(
            asked not in (None, size) for asked, size in zip(spec.shape, array.shape, strict=True)
        ):
            raise ModelInputError(f"{spec} was given an array of the shape {array.shape}.")
        found[spec.name] = array
    return found


def as_text(array: np.ndarray) -> np.ndarray:
    """An array of `str`, of one that may hold UTF-8 bytes; what is no UTF-8 is kept escaped."""
    flat = [
        each.decode("utf-8", "surrogateescape") if isinstance(each, bytes) else str(each)
        for each in np.asarray(array).ravel().tolist()
    ]
    made = np.empty(len(flat), object)
    made[:] = flat
    return made.reshape(np.shape(array))


def as_bytes(array: np.ndarray) -> np.ndarray:
    """An array of UTF-8 bytes, of one that may hold `str`."""
    flat = [
        each if isinstance(each, bytes) else str(each).encode("utf-8", "surrogateescape")
        for each in np.asarray(array).ravel().tolist()
    ]
    made = np.empty(len(flat), object)
    made[:] = flat
    return made.reshape(np.shape(array))


def unreadable(path: object, kind: str, error: BaseException) -> ExportError:
    """The error for a file that a runtime can't read."""
    return ExportError(
        f"{path} can't be read as {kind}: {first_lines(error)} Is it whole, and of this kind?"
    )


def first_lines(error: BaseException, most: int = 300) -> str:
    """What an error says, without the stacks that runtimes put behind it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[:most]}..."


def _dtype(array: np.ndarray) -> str:
    text = array.dtype.kind in "UST" or (
        array.dtype.kind == "O" and all(isinstance(each, (str, bytes)) for each in array.ravel())
    )
    return TEXT if text else array.dtype.name
