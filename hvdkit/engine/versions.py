"""The one place that looks at the versions of TensorFlow, Keras and Horovod."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path
from types import ModuleType

from packaging.specifiers import SpecifierSet

from hvdkit.errors import InstallationError

# That of setup.cfg. hvdkit overrides methods of Keras that are not public (tests/keras_contract.py
# lists them), so a new version has to be tried first.
SUPPORTED_KERAS = ">=3.13,<3.16"
_INSTALL_TENSORFLOW = (
    "TensorFlow is not installed. Run\n"
    "    pip install 'hvdkit[cpu]'    (or 'hvdkit[gpu]' on a machine with NVIDIA GPUs)\n"
    "and then\n"
    "    hvdkit build"
)
_BUILD_HOROVOD = "Run\n    hvdkit build\nto build Horovod for the TensorFlow that is installed."


def require_tensorflow() -> None:
    """Check that TensorFlow is there and that Keras 3 runs on it.

    Raises:
        InstallationError: with the command that mends it.
    """
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.origin is None:  # a folder without the package in it
        raise InstallationError(_INSTALL_TENSORFLOW)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise InstallationError(
            f"hvdkit trains Keras models on TensorFlow, but KERAS_BACKEND is {backend!r}. "
            "Unset it, or set KERAS_BACKEND=tensorflow."
        )
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        raise InstallationError(
            "TF_USE_LEGACY_KERAS is set, which makes tf.keras Keras 2; hvdkit needs Keras 3. "
            "Unset TF_USE_LEGACY_KERAS."
        )
    import keras

    if keras.__version__ not in SpecifierSet(SUPPORTED_KERAS, prereleases=True):
        raise InstallationError(
            f"hvdkit needs keras{SUPPORTED_KERAS}, but Keras {keras.__version__} is installed. "
            f"Run\n    pip install 'keras{SUPPORTED_KERAS}'"
        )
    if keras.backend.backend() != "tensorflow":
        raise InstallationError(
            f"hvdkit trains Keras models on TensorFlow, but Keras's backend is "
            f"{keras.backend.backend()!r} (see ~/.keras/keras.json). Set KERAS_BACKEND=tensorflow."
        )


def installed_versions() -> dict[str, str]:
    """The versions of what decides what a rank computes."""
    import horovod
    import keras
    import tensorflow as tf

    return {
        "Python": platform.python_version(),
        "hvdkit": str(sys.modules["hvdkit"].__version__),
        "TensorFlow": tf.__version__,
        "Keras": keras.__version__,
        "Horovod": horovod.__version__,
    }


def load_horovod() -> ModuleType:
    """Import Horovod's TensorFlow operations.

    Returns:
        The module `horovod.tensorflow.mpi_ops`.

    Raises:
        InstallationError: Horovod is missing, was built for another TensorFlow or without
            TensorFlow, or its library can't be loaded.
    """
    require_tensorflow()
    if importlib.util.find_spec("horovod") is None:
        raise InstallationError(f"Horovod is not installed. {_BUILD_HOROVOD}")
    import tensorflow as tf

    try:
        from horovod.common.exceptions import HorovodVersionMismatchError
    except ImportError as error:
        raise InstallationError(f"Horovod can't be imported: {error}\n{_BUILD_HOROVOD}") from error
    try:
        mpi_ops = importlib.import_module("horovod.tensorflow.mpi_ops")
    except HorovodVersionMismatchError as error:
        raise _wrong_tensorflow(error.installed_version, tf.__version__) from error
    except (ImportError, tf.errors.NotFoundError, OSError) as error:
        raise InstallationError(
            f"Horovod's library for TensorFlow {tf.__version__} can't be loaded: "
            f"{str(error).splitlines()[0]}\n{_BUILD_HOROVOD}"
        ) from error
    built_for = _built_for()
    if built_for is not None and built_for != tf.__version__:  # Horovod itself only warns
        raise _wrong_tensorflow(built_for, tf.__version__)
    return mpi_ops


def _wrong_tensorflow(built_for: str | None, installed: str) -> InstallationError:
    return InstallationError(
        f"Horovod was built for TensorFlow {built_for}, but TensorFlow {installed} is installed. "
        f"{_BUILD_HOROVOD}"
    )


def _built_for() -> str | None:
    """The version of TensorFlow that Horovod was built for, if it says so."""
    import horovod

    try:
        metadata = json.loads(Path(horovod.__file__).with_name("metadata.json").read_text())
    except (OSError, ValueError):
        return None
    version = metadata.get("tensorflow")
    return version if isinstance(version, str) else None
