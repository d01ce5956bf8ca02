"""Inputs with which an exported model is compared with Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from hvdkit.errors import ExportError
from hvdkit.export.interface import Interface
from hvdkit.export.runtimes.base import TEXT, TensorSpec, first_lines

Arrays = dict[str, np.ndarray]

_BATCHES = (1, 3)
# Two lengths for sizes that are open; models that shrink images need the larger ones.
_LENGTHS = ((7, 12), (33, 48), (64, 96), (224, 256))
_WORDS = ("", "hello", "two words", "größer", "no such word 17")
# Integers of models without vocabularies are below this: bytes of an image for example.
_ANY_NUMBER = 256


def trials_for(interface: Interface) -> list[Arrays]:
    """Inputs of two batch sizes, and of two lengths where those are open.

    Integers are in the range that the model takes: below the sizes of its vocabularies, as far as
    Keras itself raises nothing.

    Raises:
        ExportError: Keras can't run the model with any of what was tried.
    """
    rng = np.random.default_rng(0)
    words = _words(interface.model)
    problem: BaseException | None = None
    for lengths in _LENGTHS if _open(interface.inputs) else ((1, 1),):
        for limits in _limits(interface):
            try:
                limits = _raised(interface, limits, lengths[0], rng, words)
                return [
                    _arrays(interface.inputs, batch, length, limits, rng, words)
                    for length in dict.fromkeys(lengths)
                    for batch in _BATCHES
                ]
            except _CanNotRunError as error:
                problem = error.__cause__
    assert problem is not None
    raise ExportError(
        f"Keras can't run the model {interface.model.name} with inputs of the types and sizes that "
        f"it names ({', '.join(map(str, interface.inputs))}): {first_lines(problem)} "
        "Give examples of real inputs."
    )


class _CanNotRunError(Exception):
    """Keras raised something; it is the cause."""


def _limits(interface: Interface) -> list[dict[str, int]]:
    """Below which numbers integers may be, for a start: those that most models take."""
    return [{spec.name: limit for spec in interface.inputs} for limit in (2, 1)]


def _raised(
    interface: Interface,
    limits: Mapping[str, int],
    length: int,
    rng: np.random.Generator,
    words: Sequence[str],
) -> dict[str, int]:
    """The highest limits, one input after the other, with which Keras raises nothing.

    Raises:
        _CanNotRunError: it does with the given ones.
    """
    found = dict(limits)

    def runs(tried: Mapping[str, int]) -> None:
        arrays = _arrays(interface.inputs, 3, length, tried, rng, words, highest=True)
        try:
            _require_numbers(interface.run(arrays))
        except Exception as error:  # whatever the model's layers raise
            raise _CanNotRunError from error

    runs(found)
    for spec in interface.inputs:
        if not spec.dtype.startswith(("int", "uint")):
            continue
        for limit in _sizes(interface.model):
            try:
                runs({**found, spec.name: limit})
            except _CanNotRunError:
                continue
            found[spec.name] = limit
            break
    return found


def _require_numbers(outputs: Mapping[str, np.ndarray]) -> None:
    """Refuse to compare nothing: outputs that are empty, or not finite, as of an image too small.

    Raises:
        ValueError: such an output.
    """
    for name, array in outputs.items():
        if not array.size or (_is_float(array) and not np.isfinite(array.astype("float32")).any()):
            raise ValueError(f"the output {name} holds no finite number.")


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind not in "biuOSUc"  # types that NumPy does not know are "V"


def _sizes(model: keras.Model) -> list[int]:
    """Sizes of vocabularies, the largest first."""
    found = set()
    for layer in model._flatten_layers():
        for name in ("input_dim", "num_tokens", "vocabulary_size"):
            size = getattr(layer, name, None)
            if isinstance(size, int):
                found.add(size)
    return sorted((size for size in found if size > 2), reverse=True) or [_ANY_NUMBER]


def _words(model: keras.Model) -> list[str]:
    found = list(_WORDS)
    for layer in model._flatten_layers():
        read: Callable[[], Any] | None = getattr(layer, "get_vocabulary", None)
        if read is not None:
            found += [str(word) for word in read()[:20]]
    return found


def _open(specs: Sequence[TensorSpec]) -> bool:
    return any(None in spec.shape[1:] for spec in specs)


def _arrays(
    specs: Sequence[TensorSpec],
    batch: int,
    length: int,
    limits: Mapping[str, int],
    rng: np.random.Generator,
    words: Sequence[str],
    *,
    highest: bool = False,
) -> Arrays:
    return {
        spec.name: _array(spec, batch, length, limits[spec.name], rng, words, highest=highest)
        for spec in specs
    }


def _array(
    spec: TensorSpec,
    batch: int,
    length: int,
    limit: int,
    rng: np.random.Generator,
    words: Sequence[str],
    *,
    highest: bool,
) -> np.ndarray:
    first = batch if spec.shape[0] is None else spec.shape[0]
    shape = (first, *(length if size is None else size for size in spec.shape[1:]))
    if spec.dtype == TEXT:
        return rng.choice(np.array(words, object), shape).astype(object)
    if spec.dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if spec.dtype.startswith(("int", "uint")):
        most = min(limit, np.iinfo(spec.dtype).max)
        array = rng.integers(0, most, shape)
        if highest and array.size:
            array.flat[0] = most - 1
        return array.astype(spec.dtype)
    return np.asarray(rng.normal(size=shape), _numpy(spec.dtype))


def _numpy(dtype: str) -> Any:
    import tensorflow as tf

    return tf.as_dtype(dtype).as_numpy_dtype
