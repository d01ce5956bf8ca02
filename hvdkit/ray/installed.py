"""Is Ray there, and new enough?"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from packaging.specifiers import SpecifierSet

from hvdkit.errors import HvdkitError, InstallationError

# That of setup.cfg.
SUPPORTED_RAY = ">=2.50,<3"


def connected_ray() -> Any:
    """Ray, connected to a cluster; where the script has not connected, as `ray.init()` does.

    Returns:
        The module `ray`.

    Raises:
        InstallationError: Ray is missing, or its version does not fit.
        HvdkitError: the script is a client outside of the cluster.
    """
    install = f"Run\n    pip install 'hvdkit[ray]'    (ray[data]{SUPPORTED_RAY})"
    if importlib.util.find_spec("ray") is None:
        raise InstallationError(f"Ray is not installed. {install}")
    ray: Any = importlib.import_module("ray")
    version = getattr(ray, "__version__", "of no version")
    if version not in SpecifierSet(SUPPORTED_RAY, prereleases=True):
        raise InstallationError(
            f"hvdkit.ray needs ray{SUPPORTED_RAY}, but Ray {version} is installed. {install}"
        )
    if ray.util.client.ray.is_connected():
        raise HvdkitError(
            "this script is a client of Ray from outside of the cluster (ray://), and the ranks "
            "could not reach it. Start it on the cluster: ray job submit -- python train.py"
        )
    if not ray.is_initialized():
        ray.init()
    return ray
