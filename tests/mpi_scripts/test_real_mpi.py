"""The wrapper with the MPI of this environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from wrapper_sandbox import WRAPPER


@pytest.mark.timeout(120)
def test_two_real_ranks(tmp_path: Path):
    """mpi4py on two ranks under the MPI of this environment, through the wrapper."""
    program = tmp_path / "ranks.py"
    program.write_text(
        "import os, sys\n"
        "from mpi4py import MPI\n"
        "world = MPI.COMM_WORLD\n"
        "seen = world.allgather((world.rank, os.environ['HVDKIT_TEST_VALUE'], sys.argv[1]))\n"
        "if world.rank == 0:\n"
        "    print('seen', seen)\n"
    )
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMPI_", "PMIX_", "PRTE_", "SLURM_", "PBS_"))
    }
    env = inherited | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HVDKIT_TEST_VALUE": "a; 'b'",
        "HVDKIT_ALLOW_ROOT": "1",
        "TMPDIR": "/tmp",  # Open MPI makes sockets there; their paths have to be short
    }
    result = subprocess.run(
        [
            *(str(WRAPPER), "-np", "2", "--oversubscribe", "--bind", "auto"),
            *("--interface", "lo", "--", sys.executable, str(program), "two words"),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    expected = [(rank, "a; 'b'", "two words") for rank in range(2)]
    assert f"seen {expected}" in result.stdout
