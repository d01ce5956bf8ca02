"""Write a model in a format, run it there, and compare it with Keras, before it counts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hvdkit.errors import ExportError, InstallationError
from hvdkit.export.comparison import (
    Difference,
    difference,
    require_same_inputs,
    run_all,
    tolerance_of,
)
from hvdkit.export.formats import Format
from hvdkit.export.interface import Interface
from hvdkit.export.missing import missing_operation
from hvdkit.export.publish import published
from hvdkit.export.quantize import quantized
from hvdkit.export.runtimes.base import Runtime, TensorSpec, checked, first_lines
from hvdkit.export.runtimes.loading import load
from hvdkit.export.trials import trials_for

QUANTIZED_TOLERANCE = 0.1
"""How far int8 weights may be from floating-point ones, unless it is said."""
QUANTIZED_ROUNDING = 0.01
"""How far the same int8 model may be in another runtime: a value that is rounded to the next
integer is off by a whole step."""


@dataclass(frozen=True)
class Exported:
    """A model that was exported, and gives what Keras gives.

    Attributes:
        path: the file or folder.
        inputs: what it takes, as its runtime says.
        outputs: what it gives.
        comparisons: on how many batches it was compared.
        difference: how far it was from the model that was exported.
        quantization: how far the quantized model was from the one with floating-point weights;
            None where nothing was quantized.
    """

    path: Path
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    comparisons: int
    difference: Difference
    quantization: Difference | None = None


@dataclass(frozen=True)
class Wanted:
    """How a model is to be exported; see `export_model`."""

    kind: Format
    quantize: bool = False
    tolerance: float | None = None
    examples: Mapping[str, np.ndarray] | None = None
    overwrite: bool = False


def export(interface: Interface, path: Path, wanted: Wanted) -> Exported:
    """Export a model.

    Args:
        interface: how the model is called.
        path: the file or folder.
        wanted: how.

    Raises:
        ExportError: see `export_model`; nothing is left at the path.
    """
    kind = wanted.kind
    _require_suffix(kind, path)
    with published(path, overwrite=wanted.overwrite) as part:
        trials = trials_for(interface)
        if wanted.examples is not None:
            trials.append(checked(wanted.examples, interface.inputs))
        expected = _twice(interface, trials)
        allowed = tolerance_of(interface) if wanted.tolerance is None else wanted.tolerance
        for_int8 = QUANTIZED_TOLERANCE if wanted.tolerance is None else wanted.tolerance
        source, target, cost = interface, expected, None
        if wanted.quantize and not kind.quantizes:
            source = replace(interface, model=quantized(interface.model))
            target = [source.run(trial) for trial in trials]
            cost = _within(difference(expected, target, for_int8), f"{kind.name}, quantized")
            allowed = max(allowed, QUANTIZED_ROUNDING)
        runtime = _written(kind, source, part, quantize=wanted.quantize)
        own = wanted.quantize and kind.quantizes
        found = difference(target, run_all(runtime, trials), for_int8 if own else allowed)
        _within(found, f"{kind.name}, run by its own runtime,")
        cost = found if own else cost
        shown = Exported(path, runtime.inputs, runtime.outputs, len(trials), found, cost)
        del runtime
    return shown


def _written(kind: Format, source: Interface, part: Path, *, quantize: bool) -> Runtime:
    """Write a model and load it with its runtime.

    Raises:
        ExportError: either fails; it names what of the model the format is known not to take.
    """
    try:
        kind.write(source, part, quantize=quantize and kind.quantizes)
        runtime = load(part)
        require_same_inputs(source, runtime)
    except InstallationError:
        raise
    except Exception as error:  # of any kind, by what is in the model
        operation = missing_operation(error)
        text = str(error) if isinstance(error, ExportError) else first_lines(error)
        if operation is not None:
            text = f"it does not have {operation}."
        text = f"{source.model.name} can't be written as {kind.name}: {text}"
        raise ExportError(_with_hints(text, kind, source)) from error
    return runtime


def _with_hints(text: str, kind: Format, source: Interface) -> str:
    hints = kind.hints(source)
    return "\n".join([text, *(f"{kind.name} does not take {hint}." for hint in hints)])


def _twice(
    interface: Interface, trials: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """What Keras gives.

    Raises:
        ExportError: it gives something else the next time.
    """
    try:
        first = [interface.run(trial) for trial in trials]
        second = [interface.run(trial) for trial in trials]
    except Exception as error:  # whatever the model's layers raise
        raise ExportError(
            f"Keras can't run the model {interface.model.name} on one of the batches on which it "
            f"was to be compared: {first_lines(error)}"
        ) from error
    again = difference(first, second, tolerance_of(interface))
    if not again.passed:
        raise ExportError(
            f"{interface.model.name} gives something else each time it is called with the same "
            f"inputs (in {again.output}): it draws random numbers, or keeps a state. What is "
            "exported could not be compared with it: take that out of what is called for inference "
            "(training=False), or make the recurrent layers stateful=False."
        )
    return first


def _within(found: Difference, what: str) -> Difference:
    if not found.passed:
        raise ExportError(
            f"the model as {what} differs from Keras by {found}. Nothing was left. If that is near "
            "enough, allow it with a larger tolerance."
        )
    return found


def _require_suffix(kind: Format, path: Path) -> None:
    if kind.suffix and path.suffix != kind.suffix:
        raise ExportError(f"files of {kind.name} end in {kind.suffix}, and {path} does not.")
    if not kind.suffix and path.suffix in (".onnx", ".tflite", ".keras"):
        raise ExportError(f"{kind.name} is a folder, and {path} has the name of a file.")


def size_of(path: Path) -> int:
    """How many bytes a file, or all files of a folder, hold."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.path.getsize(Path(root) / f) for root, _, files in os.walk(path) for f in files)
