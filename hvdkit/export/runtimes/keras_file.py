"""Keras's own files (.keras), run by Keras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hvdkit.errors import ExportError, InstallationError
from hvdkit.export.runtimes.base import TensorSpec, checked, first_lines
from hvdkit.export.runtimes.saved_model import limit_threads, specs_of


class KerasRuntime:
    """A .keras file, whose layers Keras has or the program has registered.

    Args:
        path: the file.
        threads: see `limit_threads`.

    Raises:
        ExportError: it can't be read, or needs layers that are not known.
        InstallationError: Keras or TensorFlow is not installed.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import keras
            import tensorflow as tf
        except ImportError as error:
            raise InstallationError(
                f"{path} needs Keras and TensorFlow: {error}. Run\n    pip install 'hvdkit[cpu]'"
            ) from error
        from hvdkit.export.interface import interface_of
        from hvdkit.export.keras_files import load_keras_file

        if keras.backend.backend() != "tensorflow":
            raise ExportError(f"{path}: Keras runs on {keras.backend.backend()}, not TensorFlow.")
        limit_threads(threads)
        self._interface = interface_of(load_keras_file(path))
        self._path = path
        signature = self._interface.signature()
        self._function = tf.function(self._interface, input_signature=[signature])
        try:
            outputs = self._function.get_concrete_function().structured_outputs
        except Exception as error:  # whatever the model's layers raise
            raise ExportError(f"{path} can't be traced: {first_lines(error)}") from error
        self.inputs: Sequence[TensorSpec] = self._interface.inputs
        self.outputs: Sequence[TensorSpec] = specs_of(outputs)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Runtime`."""
        import tensorflow as tf

        from hvdkit.export.interface import as_arrays

        tensors = self._interface.as_tensors(checked(inputs, self.inputs))
        try:
            return as_arrays(self._function(tensors))
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise ExportError(f"Keras can't run {self._path}: {first_lines(error)}") from error
