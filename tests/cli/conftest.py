"""Fixtures of the tests of the command line."""

from pathlib import Path

import pytest

from hvdkit_cli.building.mpi import Mpi
from hvdkit_cli.building.plan import Plan
from hvdkit_cli.building.toolchain import Toolchain
from hvdkit_cli.installed import TensorFlow


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A CPU build's plan with nothing real behind it."""
    site = tmp_path / "env" / "lib" / "python3" / "site-packages"
    return Plan(
        tensorflow=TensorFlow("tensorflow-cpu", "2.21.0", "abc", site / "tensorflow", None),
        toolchain=Toolchain(Path("/t/c++"), Path("/t/cc"), "c++ 12.2", Path("/t/cmake")),
        mpi=Mpi("wheel", tmp_path / "env/bin/mpicxx", "Open MPI", "5.0.11", tmp_path / "env/lib"),
        cuda=None,
        site_packages=site,
    )
