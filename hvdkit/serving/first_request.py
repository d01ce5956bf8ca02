"""The first requests of a version, before it serves: does it run, and row by row?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hvdkit.export.runtimes import TensorSpec
from hvdkit.serving import requests
from hvdkit.serving.problems import Problem
from hvdkit.serving.settings import Limits

FILE = "first_request.json"

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Arrays]


def first_request(
    folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> dict[str, np.ndarray]:
    """The inputs of the first request.

    Args:
        folder: of the version, which may hold one as `first_request.json`, in the protocol's JSON.
        inputs: what the model takes; without such a file, numbers are made up, one row, and one
            for each other size that may vary.
        outputs: what it gives.

    Raises:
        ValueError: the file is not a request to this model.
    """
    path = folder / FILE
    if not path.is_file():
        return _made_up(inputs, rows=1)
    try:
        return dict(requests.parse(path.read_bytes(), None, inputs, outputs, Limits()).inputs)
    except Problem as problem:
        raise ValueError(f"{FILE} is no request to this model: {problem.message}") from problem


def rows_stand_alone(
    run: Run, given: Arrays, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> str | None:
    """Whether requests may be put together into one batch, tried with two of them.

    A model whose outputs depend on the other rows (normalized by the batch, quantized by its
    largest number, drawn at random) must not get those of strangers.

    Args:
        run: runs the model.
        given: a request that it can answer.
        inputs: what it takes.
        outputs: what it gives.

    Returns:
        None where each row stands alone; else why requests can't be put together.
    """
    fixed = [spec.name for spec in (*inputs, *outputs) if not spec.shape or spec.shape[0]]
    if fixed:
        return f"the first size of {', '.join(fixed)} is fixed"
    if len({array.shape[0] for array in given.values()}) > 1:
        return "the inputs of its first request have different numbers of rows"
    other = {name: _others(array) for name, array in given.items()}
    together = {name: np.concatenate([given[name], other[name]]) for name in given}
    alone, beside, joined = run(given), run(other), run(together)
    rows = next(iter(given.values())).shape[0]
    for name, array in joined.items():
        if not array.ndim or len(array) != 3 * rows or len(alone[name]) != rows:
            return f"output {name} does not have a row for each row of the inputs"
        if not _equal(array[:rows], alone[name]) or not _equal(array[rows:], beside[name]):
            return f"output {name} of a row depends on the other rows, or on chance"
    return None


def _made_up(specs: Sequence[TensorSpec], rows: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    found = {}
    for spec in specs:
        shape = [1 if size is None else size for size in spec.shape]
        if shape and spec.shape[0] is None:
            shape[0] = rows
        if spec.dtype == "str":
            array = np.full(shape, b"a", object)
        elif np.dtype(spec.dtype).kind == "f":
            array = generator.normal(size=shape).astype(spec.dtype)
        else:
            array = generator.integers(0, 2, shape).astype(spec.dtype)
        found[spec.name] = array
    return found


def _others(array: np.ndarray) -> np.ndarray:
    """Twice as many rows, in which every value is another one that the model may well take."""
    twice = np.concatenate([array, array])
    if twice.dtype == object:
        return np.array([[text + b"a"] for text in twice.ravel()], object).reshape(twice.shape)
    if twice.dtype.kind == "f":
        return (3 * twice + 1).astype(array.dtype)
    zeros: np.ndarray = twice == 0
    return zeros.astype(array.dtype)  # 0 and 1 are in most vocabularies


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether arrays are equal, but for the order in which a runtime adds numbers."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool((one == other).all())
    coarse = one.dtype.itemsize == 2
    scale = float(np.nanmax(np.abs(other))) if other.size else 0.0
    relative, absolute = (1e-2, 1e-2) if coarse else (1e-3, 1e-5)
    return bool(np.allclose(one, other, relative, absolute * scale, equal_nan=True))
