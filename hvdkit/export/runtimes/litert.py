"""LiteRT files (.tflite), run by LiteRT's interpreter."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit.errors import ExportError, InstallationError
from hvdkit.export.runtimes.base import (
    TEXT,
    TensorSpec,
    as_bytes,
    as_text,
    checked,
    first_lines,
    unreadable,
)


class LiteRTRuntime:
    """A .tflite file with one signature, as Keras writes it.

    The interpreter holds the tensors of one call: calls by several threads go one after the other.

    Args:
        path: the file.
        threads: how many threads one call may use; None: LiteRT's own choice.

    Raises:
        ExportError: it can't be read, or has no signature or several.
        InstallationError: ai-edge-litert is not installed.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise InstallationError(
                f"{path} needs LiteRT: {error}. Run\n"
                "    pip install ai-edge-litert\n"
                "or, for all formats, pip install 'hvdkit[export]'"
            ) from error
        try:
            interpreter = Interpreter(str(path), num_threads=threads)
            signatures = interpreter.get_signature_list()
            if len(signatures) != 1:
                raise ExportError(
                    f"{path} has {len(signatures)} signatures ({', '.join(signatures)}), not one."
                )
            self._run: Any = interpreter.get_signature_runner()
        except (ValueError, RuntimeError, TypeError) as error:
            if isinstance(error, ExportError):
                raise
            raise unreadable(path, "a LiteRT file", error) from error
        self._path = path
        self._one_at_a_time = threading.Lock()
        self.inputs: Sequence[TensorSpec] = [
            _spec(*each) for each in sorted(self._run.get_input_details().items())
        ]
        self.outputs: Sequence[TensorSpec] = [
            _spec(*each) for each in sorted(self._run.get_output_details().items())
        ]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Runtime`."""
        given = {
            spec.name: as_bytes(array) if spec.dtype == TEXT else array
            for spec, array in zip(self.inputs, checked(inputs, self.inputs).values(), strict=True)
        }
        try:
            with self._one_at_a_time:
                found = {name: np.array(array) for name, array in self._run(**given).items()}
        except (ValueError, RuntimeError, TypeError) as error:
            raise ExportError(f"LiteRT can't run {self._path}: {first_lines(error)}") from error
        return {
            spec.name: as_text(found[spec.name]) if spec.dtype == TEXT else found[spec.name]
            for spec in self.outputs
        }


def _spec(name: str, details: Mapping[str, Any]) -> TensorSpec:
    text = details["dtype"] in (np.bytes_, np.object_)
    dtype = TEXT if text else np.dtype(details["dtype"]).name
    signature = details.get("shape_signature", details["shape"])
    sizes = signature if len(signature) == len(details["shape"]) else details["shape"]
    return TensorSpec(name, dtype, tuple(None if size < 0 else int(size) for size in sizes))
