"""ONNX files, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit.errors import ExportError, InstallationError
from hvdkit.export.runtimes.base import (
    TEXT,
    TensorSpec,
    as_text,
    checked,
    first_lines,
    unreadable,
)

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": TEXT,
}


class OnnxRuntime:
    """An .onnx file.

    Args:
        path: the file.
        threads: how many threads one call may use; None: one a core.

    Raises:
        ExportError: it can't be read.
        InstallationError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InstallationError(
                f"{path} needs ONNX Runtime: {error}. Run\n"
                "    pip install onnxruntime\n"
                "or, for all formats, pip install 'hvdkit[export]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # its errors have no class in common
            raise unreadable(path, "an ONNX file", error) from error
        self._path = path
        self.inputs: Sequence[TensorSpec] = [_spec(each) for each in self._session.get_inputs()]
        self.outputs: Sequence[TensorSpec] = [_spec(each) for each in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Runtime`."""
        given = {
            spec.name: as_text(array) if spec.dtype == TEXT else array
            for spec, array in zip(self.inputs, checked(inputs, self.inputs).values(), strict=True)
        }
        try:
            found = self._session.run(None, given)
        except Exception as error:
            raise ExportError(
                f"ONNX Runtime can't run {self._path}: {first_lines(error)}"
            ) from error
        return {
            spec.name: as_text(array) if spec.dtype == TEXT else array
            for spec, array in zip(self.outputs, found, strict=True)
        }


def _spec(node: Any) -> TensorSpec:
    dtype = _DTYPES.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, dtype, shape)
