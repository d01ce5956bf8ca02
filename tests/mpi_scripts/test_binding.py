"""The cores that the wrapper binds ranks to."""

from __future__ import annotations

import os
import re

import pytest
from wrapper_sandbox import FLAVOURS, OPEN_MPI, VERSIONS, Sandbox, has

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("cores", "ranks", "expected"),
    [
        ("16", 1, "none"),  # alone: all cores
        ("16", 2, "8"),
        ("16", 3, "5"),
        ("16", 16, "1"),
        ("2x8", 2, "8"),
        ("2x8", 3, "4"),  # 5 would make a rank span the sockets
        ("4x8", 3, "none"),  # fewer ranks than sockets
        ("2x8", 4, "4"),
        ("2x1", 2, "1"),
    ],
)
def test_auto_binding(sandbox: Sandbox, cores: str, ranks: int, expected: str):
    sandbox.launcher(VERSIONS["openmpi5"])
    hosts = f"h1:{ranks},h2:{ranks}"
    words = sandbox.command("-np", str(2 * ranks), "-H", hosts, "--cores", cores, "--", "prog")
    if expected == "none":
        assert has(words, "--map-by", "slot", "--bind-to", "none")
    else:
        assert has(words, "--map-by", f"slot:PE={expected}", "--bind-to", "core")


def test_binding_counts_the_ranks_that_there_are(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["mpich"])
    # Two ranks fill the first host only in part.
    words = sandbox.command("-np", "2", "-H", "h1:8,h2:8", "--cores", "8", "--", "prog")
    assert has(words, "-bind-to", "core:4")
    # The fullest host decides.
    words = sandbox.command("-np", "5", "-H", "h1:1,h2:4", "--cores", "8", "--", "prog")
    assert has(words, "-bind-to", "core:2")


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("how", ["none", "numa"])
def test_other_bindings(sandbox: Sandbox, flavour: str, how: str):
    sandbox.launcher(VERSIONS[flavour])
    words = sandbox.command("-np", "2", "-H", "h1:2", "--cores", "8", "--bind", how, "--", "prog")
    expected = {
        ("openmpi", "none"): ("--map-by", "slot", "--bind-to", "none"),
        ("openmpi", "numa"): ("--map-by", "numa", "--bind-to", "numa"),
        ("mpich", "none"): ("-bind-to", "none"),
        ("mpich", "numa"): ("-bind-to", "numa", "-map-by", "numa"),
        ("intel", "none"): ("-genv", "I_MPI_PIN", "0"),
        ("intel", "numa"): ("-genv", "I_MPI_PIN", "1", "-genv", "I_MPI_PIN_DOMAIN", "numa"),
    }
    assert has(words, *expected[flavour.rstrip("45"), how])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_oversubscribed_ranks_are_not_bound(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    words = sandbox.command("-np", "6", "--cores", "4", "--oversubscribe", "--", "prog")
    if flavour in OPEN_MPI:
        assert has(words, "--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none")
    elif flavour == "mpich":
        assert has(words, "-bind-to", "none")
    else:
        assert has(words, "-genv", "I_MPI_PIN", "0")


def test_the_cores_of_this_machine(sandbox: Sandbox):
    """Without --cores, slots are the cores that this process may use."""
    sandbox.launcher(VERSIONS["openmpi5"])
    result = sandbox.run("-np", "99999", "--dry-run", "--", "prog")
    assert result.returncode == 2
    slots = int(re.search(r"there are (\d+) slots", result.stderr)[1])
    assert 1 <= slots <= len(os.sched_getaffinity(0))
