"""Whether an exported model gives what Keras gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hvdkit.errors import ExportError
from hvdkit.export.interface import Interface
from hvdkit.export.runtimes.base import Runtime, TensorSpec

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far results are from those that they should be.

    Attributes:
        largest: of floating-point outputs, the largest difference as a share of the largest value
            of the output; of others, the share of elements that differ.
        output: the output that it is of.
        allowed: how much it may be.
    """

    largest: float
    output: str
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether it is no larger than it may be."""
        return self.largest <= self.allowed

    def __str__(self) -> str:
        share = f"{self.largest:.2g} of the largest value"
        return f"{share}, in {self.output} (up to {self.allowed:g} is allowed)"


def difference(expected: Sequence[Arrays], found: Sequence[Arrays], allowed: float) -> Difference:
    """The largest difference between results for the same inputs.

    Args:
        expected: outputs by name, for each of the inputs.
        found: the same, of another model.
        allowed: see `Difference`.

    Raises:
        ExportError: they have other names, types or shapes.
    """
    worst = Difference(0.0, "", allowed)
    for name in expected[0]:
        first = [each[name] for each in expected]
        second = [each.get(name) for each in found]
        for a, b in zip(first, second, strict=True):
            _require_alike(name, a, b)
        size = _difference(first, [b for b in second if b is not None])
        if size > worst.largest or not worst.output:
            worst = Difference(size, name, allowed)
    return worst


def require_same_inputs(interface: Interface, runtime: Runtime) -> None:
    """Raise where an exported model takes something else than the model does.

    Raises:
        ExportError: a name, a type or a size differs, or a size is no longer open.
    """
    wanted, taken = sorted(map(str, interface.inputs)), sorted(map(str, runtime.inputs))
    if wanted != taken:
        raise ExportError(
            f"the exported model takes {'; '.join(taken)}, but the model takes {'; '.join(wanted)}."
        )


def run_all(runtime: Runtime, trials: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    """What a runtime gives for some inputs."""
    return [runtime(trial) for trial in trials]


def tolerance_of(interface: Interface) -> float:
    """How far a runtime may be from Keras, for its way to add up floating-point numbers."""
    computed = {layer.compute_dtype for layer in interface.model._flatten_layers()}
    computed |= {spec.dtype for spec in interface.inputs}
    if "bfloat16" in computed:
        return 0.05
    return 0.01 if "float16" in computed else 1e-4


def _require_alike(name: str, expected: np.ndarray, found: np.ndarray | None) -> None:
    if found is None:
        raise ExportError(f"the exported model has no output {name}.")
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise ExportError(
            f"the output {name} is {_text(name, found)} of the exported model, but "
            f"{_text(name, expected)} of Keras."
        )


def _text(name: str, array: np.ndarray) -> str:
    return str(TensorSpec(name, array.dtype.name, array.shape)).removeprefix(f"{name}: ")


def _difference(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    if expected[0].dtype.kind in "biuOSU":
        count = sum(each.size for each in expected)
        wrong = sum(int((a != b).sum()) for a, b in zip(expected, found, strict=True))
        return wrong / max(count, 1)
    a = np.concatenate([each.astype(np.float64).ravel() for each in expected])
    b = np.concatenate([each.astype(np.float64).ravel() for each in found])
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    a, b = a[finite], b[finite]
    if not a.size:
        return 0.0
    scale = float(np.abs(a).max())
    largest = float(np.abs(a - b).max())
    return largest / scale if scale else largest
