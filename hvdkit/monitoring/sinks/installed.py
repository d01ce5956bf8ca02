"""Is what a sink needs installed?"""

from __future__ import annotations

import importlib.util

from hvdkit.errors import InstallationError


def require(package: str, extra: str, sink: str) -> None:
    """Check that a package is there; it is not loaded.

    Args:
        package: its name in Python.
        extra: the extra of hvdkit's that brings it.
        sink: what needs it.

    Raises:
        InstallationError: it is missing.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # a folder of that name, such as one of logs
        raise InstallationError(
            f"hvd.monitoring.{sink} needs the package {package}, which is not installed. "
            f"Run\n    pip install 'hvdkit[{extra}]'"
        )
