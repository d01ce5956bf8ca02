"""--interface and --network, for each MPI."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from wrapper_sandbox import OPEN_MPI, VERSIONS, Sandbox, has

pytestmark = pytest.mark.quick


def test_open_mpi_5_gives_its_daemons_the_interface(sandbox: Sandbox):
    names = sorted(path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")
    if not names:
        pytest.skip("this machine has only the loopback interface")
    sandbox.launcher(VERSIONS["openmpi5"])
    words = sandbox.command("-np", "1", "--interface", names[0], "--", "prog")
    assert has(words, "--mca", "btl_tcp_if_include", names[0])
    assert has(words, "--prtemca", "prte_if_include", names[0])
    # Its daemons refuse to start on the loopback interface.
    assert "--prtemca" not in sandbox.command("-np", "1", "--interface", "lo", "--", "prog")


@pytest.mark.parametrize("flavour", OPEN_MPI)
def test_a_network_for_open_mpi(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    arguments = ("-np", "1", "--dry-run", "--network=10.1.0.0/16", "--", "prog")
    result = sandbox.run(*arguments)
    assert "btl_tcp_if_include 10.1.0.0/16" in result.stdout
    assert ("oob_tcp_if_include 10.1.0.0/16" in result.stdout) == (flavour == "openmpi4")
    assert "prte_if_include" not in result.stdout
    # NCCL and Gloo take names only.
    assert "NCCL_SOCKET_IFNAME" not in result.stdout
    assert "NCCL_SOCKET_IFNAME" in result.stderr


@pytest.mark.skipif(not shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin:/bin"), reason="no ip")
@pytest.mark.parametrize("flavour", ["mpich", "intel"])
def test_a_network_becomes_a_name_for_hydra(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    words = sandbox.command("-np", "1", "--network", "127.0.0.0/8", "--", "prog")
    assert has(words, "-iface", "lo")
    result = sandbox.run("-np", "1", "--network", "203.0.113.0/24", "--", "prog")
    assert result.returncode == 2
    assert "203.0.113.0/24" in result.stderr
