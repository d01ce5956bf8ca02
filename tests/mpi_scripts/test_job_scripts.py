"""The job scripts of Slurm and PBS, run as their schedulers do."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from wrapper_sandbox import MPI, VERSIONS, Sandbox, write_executable

pytestmark = pytest.mark.quick

SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_CPUS_PER_TASK": "6",
}


def run_job(
    sandbox: Sandbox, script: str, *arguments: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a job script as its scheduler does: a copy, started from elsewhere."""
    submit = sandbox.folder / "submit"
    submit.mkdir()
    (submit / "mpi").symlink_to(MPI)
    copy = sandbox.folder / "job_script"
    shutil.copy(MPI / script, copy)
    return subprocess.run(
        ["bash", str(copy), *arguments],
        env=sandbox.env | env | {"SLURM_SUBMIT_DIR": str(submit), "PBS_O_WORKDIR": str(submit)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("script", ["slurm.sbatch", "slurm-gpu.sbatch"])
class TestSlurm:
    def test_srun(self, sandbox: Sandbox, script: str):
        write_executable(
            sandbox.bin / "srun", '#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n'
        )
        result = run_job(sandbox, script, "python", "train.py", "two words", **SLURM)
        assert result.returncode == 0, result.stderr
        words = result.stdout.splitlines()
        assert words[0] == "--mpi=pmix"
        assert "--cpus-per-task=6" in words
        assert words[-3:] == ["python", "train.py", "two words"]

    def test_mpirun(self, sandbox: Sandbox, script: str):
        sandbox.launcher(VERSIONS["openmpi5"])
        result = run_job(sandbox, script, "prog", HVDKIT_LAUNCHER="mpirun", **SLURM)
        assert result.returncode == 0, result.stderr
        words = result.stdout.splitlines()
        assert words[:2] == ["-np", "8"]
        assert words[-1] == "prog"

    def test_another_launcher_is_refused(self, sandbox: Sandbox, script: str):
        result = run_job(sandbox, script, HVDKIT_LAUNCHER="mpiexec", **SLURM)
        assert result.returncode == 2
        assert "srun or mpirun" in result.stderr

    def test_no_thread_count_is_exported(self, sandbox: Sandbox, script: str):
        text = (MPI / script).read_text()
        assert not re.search(r"^\s*export (OMP|TF)_", text, re.MULTILINE)


def test_pbs(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    nodefile = sandbox.hostfile("n1", "n1", "n2", "n2")
    result = run_job(sandbox, "pbs.sh", PBS_NODEFILE=nodefile, TRAIN="train.py --epochs 5")
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    assert words[:4] == ["-np", "4", "-H", "n1:2,n2:2"]
    assert words[-4:] == ["python", "train.py", "--epochs", "5"]


def test_pbs_cores_of_a_rank_agree():
    select = re.search(
        r"^#PBS -l select=.*ncpus=(\d+):mpiprocs=(\d+):ompthreads=(\d+)$",
        (MPI / "pbs.sh").read_text(),
        re.MULTILINE,
    )
    ncpus, mpiprocs, ompthreads = map(int, select.groups())
    assert ompthreads * mpiprocs == ncpus


@pytest.mark.parametrize(
    ("status", "state", "asked", "said"),
    [
        (75, "RUNNING", "requeue 1", "queued again"),
        (75, "COMPLETING", "", "the job is COMPLETING and stays so"),
        (3, "RUNNING", "", ""),
        (0, "RUNNING", "", ""),
    ],
)
def test_only_a_running_job_that_has_saved_is_queued_again(
    sandbox: Sandbox, status: int, state: str, asked: str, said: str
):
    """A cancelled one may have saved, too."""
    write_executable(sandbox.bin / "squeue", f"#!/bin/sh\necho {state}\n")
    write_executable(sandbox.bin / "scontrol", '#!/bin/sh\necho "$@"\n')
    result = subprocess.run(
        [str(MPI / "slurm-requeue.sh"), "sh", "-c", f"exit {status}"],
        env=sandbox.env | SLURM,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == status
    assert result.stdout.strip() == asked
    assert said in result.stderr if said else not result.stderr
