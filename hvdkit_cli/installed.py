"""What is installed, read from package metadata without importing any of it."""

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

from hvdkit_cli.errors import CommandError

HOROVOD_VERSION = "0.28.1"
SUPPORTED_PYTHON = SpecifierSet(">=3.11,<3.14")
SUPPORTED_TENSORFLOW = SpecifierSet(">=2.21,<2.22")

# Different distributions, one module: whichever is installed provides `tensorflow`.
_TENSORFLOW_DISTRIBUTIONS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-cpu-aws",
    "tensorflow-rocm",
    "intel-tensorflow",
    "tf-nightly",
    "tf-nightly-cpu",
)
_FRAMEWORK_LIBRARY = re.compile(r"^tensorflow/libtensorflow_framework\.so\.\d+,sha256=([^,]+),")


@dataclass(frozen=True)
class TensorFlow:
    """An installed TensorFlow.

    Attributes:
        distribution: The name of the package that provides it, e.g. "tensorflow-cpu".
        version: Its version.
        build_id: The hash of its core library: two packages of one version differ here.
        directory: The folder of the `tensorflow` module.
        cuda: The CUDA version it was built for, or None for a CPU build.
    """

    distribution: str
    version: str
    build_id: str
    directory: Path
    cuda: str | None

    @property
    def include(self) -> Path:
        """The folder of TensorFlow's headers."""
        return self.directory / "include"


def distribution(name: str, path: Sequence[str] | None = None) -> metadata.Distribution | None:
    """Find an installed distribution.

    Args:
        name: Its name.
        path: Folders to look in; `sys.path` if None.

    Returns:
        The distribution, or None. Folders that an uninstall left without metadata do not count.
    """
    where = sys.path if path is None else list(path)
    for found in metadata.distributions(name=name, path=where):
        if found.metadata is not None and found.metadata.get("Version"):
            return found
    return None


def version(name: str, path: Sequence[str] | None = None) -> str | None:
    """Return the version of an installed distribution, or None."""
    found = distribution(name, path)
    return None if found is None else found.version


def installed_file(found: metadata.Distribution, suffix: str) -> Path | None:
    """Find a file of a distribution by how its path ends, e.g. "bin/mpicxx".

    Returns:
        The absolute path, or None if the distribution has no such file or it is gone.
    """
    for file in found.files or ():
        if file.as_posix().endswith(suffix):
            located = Path(str(found.locate_file(file))).resolve()
            if located.exists():
                return located
    return None


def find_tensorflow(path: Sequence[str] | None = None) -> TensorFlow:
    """Find the installed TensorFlow.

    Args:
        path: Folders to look in; `sys.path` if None.

    Raises:
        CommandError: None is installed, or two that overwrite each other.
    """
    found = [
        candidate
        for name in _TENSORFLOW_DISTRIBUTIONS
        if (candidate := distribution(name, path)) is not None
    ]
    if not found:
        raise CommandError(
            "TensorFlow is not installed.",
            "pip install 'hvdkit[cpu]', or pip install 'hvdkit[gpu]' on a machine with NVIDIA GPUs",
        )
    names = [candidate.metadata["Name"].replace("_", "-").lower() for candidate in found]
    if len(found) > 1:
        raise CommandError(
            f"{' and '.join(names)} are both installed: they provide the same module, and the "
            "files of one overwrite those of the other.",
            f"pip uninstall -y {' '.join(names)}, then install one of them",
        )
    directory = Path(str(found[0].locate_file("tensorflow")))
    if not (directory / "include").is_dir():
        raise CommandError(
            f"The installed {names[0]} {found[0].version} is incomplete: {directory}/include "
            "does not exist.",
            f"pip install --force-reinstall --no-deps {names[0]}=={found[0].version}",
        )
    return TensorFlow(
        distribution=names[0],
        version=found[0].version,
        build_id=_build_id(found[0]),
        directory=directory,
        cuda=_cuda_version(directory),
    )


def require_supported(tensorflow: TensorFlow) -> None:
    """Refuse a Python or a TensorFlow that Horovod is not known to build for.

    Raises:
        CommandError: Either is outside the supported range.
    """
    python = ".".join(str(part) for part in sys.version_info[:3])
    if python not in SUPPORTED_PYTHON:
        raise CommandError(
            f"Python {python} is not supported (supported: {SUPPORTED_PYTHON}).",
            "make a virtual environment with Python 3.11, 3.12 or 3.13 and install hvdkit there",
        )
    if not SUPPORTED_TENSORFLOW.contains(tensorflow.version, prereleases=True):
        raise CommandError(
            f"{tensorflow.distribution} {tensorflow.version} is not supported: Horovod "
            f"{HOROVOD_VERSION} is known to build for TensorFlow {SUPPORTED_TENSORFLOW} only.",
            f"pip install '{tensorflow.distribution}{SUPPORTED_TENSORFLOW}'",
        )


def _build_id(found: metadata.Distribution) -> str:
    for line in (found.read_text("RECORD") or "").splitlines():
        if match := _FRAMEWORK_LIBRARY.match(line):
            return match.group(1)
    return "unknown"


def _cuda_version(directory: Path) -> str | None:
    """Read `cuda_version` from TensorFlow's generated build_info.py, which is one literal."""
    try:
        tree = ast.parse((directory / "python" / "platform" / "build_info.py").read_text())
    except (OSError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            name, value = node.elts
            if (
                isinstance(name, ast.Constant)
                and name.value == "cuda_version"
                and isinstance(value, ast.Constant)
            ):
                return str(value.value)
    return None
