"""mpi/slurm.sbatch on a real Slurm of two nodes: start, pre-emption, cancelling, time limit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from launch import ROOT
from slurm_box import Job, SlurmBox

SCRIPT = "mpi/slurm.sbatch"
SMALL = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2")
LIGHT = ROOT / "tests/light_job.py"
TRAINING = ROOT / "tests/faults/resumed.py"
ENV = {"HOROVOD_FUSION_THRESHOLD": "0"}


@pytest.fixture(autouse=True)
def _no_job_is_left(box: SlurmBox):
    """Cancel what a test has left, since the next one needs the nodes."""
    yield
    box.call("scancel", "--user=root")
    box.wait_until_idle()


def light(
    box: SlurmBox, state: Path, *steps: str, options: tuple[str, ...] = (), launcher: str = "srun"
) -> Job:
    """Submit the script with a light job in the place of the example."""
    command = [sys.executable, str(LIGHT), str(state), *steps]
    env = {"HVDKIT_LAUNCHER": launcher}
    return box.submit(SCRIPT, *command, options=[*SMALL, *options], env=env)


def take_the_nodes(box: SlurmBox) -> Job:
    """Submit a job that pre-empts all others, and ends soon."""
    return box.submit("", options=["--partition=urgent", "--nodes=2", "--wrap=sleep 1"])


def saved_step(state: Path) -> int:
    """The step that a light job has written."""
    return int(state.read_text())


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_ranks_on_both_nodes(box: SlurmBox, tmp_path: Path, launcher: str) -> None:
    """Two a node, each on a core of its own."""
    options = ("--ntasks-per-node=2", "--cpus-per-task=1")
    job = light(box, tmp_path / "state", "1", options=options, launcher=launcher)
    job.wait_for_state("COMPLETED")
    for rank in range(4):
        node, local_rank = f"n{rank // 2 + 1}", rank % 2
        place = f"rank {rank} of 4, local rank {local_rank} of 2 on {node}, cores [{local_rank}]"
        assert place in job.printed(), job.describe()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_a_job_that_fails(box: SlurmBox, launcher: str) -> None:
    """It has failed in Slurm's eyes, and is not started again.

    The status is the rank's, or 143 where srun had to end another one, which would have ended late.
    """
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    job = box.submit(SCRIPT, *command, options=SMALL, env={"HVDKIT_LAUNCHER": launcher})
    shown = job.wait_for_state("FAILED")
    assert shown["ExitCode"] in ("3:0", "143:0"), job.describe()
    assert shown["Restarts"] == "0"


@pytest.mark.long
def test_pre_empted_saved_requeued_resumed(box: SlurmBox, tmp_path: Path) -> None:
    """Slurm itself would take a job that has saved in the grace time for failed."""
    job = light(box, tmp_path / "state")
    job.wait_for("from step 0", times=2)
    urgent = take_the_nodes(box)
    urgent.wait_for_state("RUNNING", "COMPLETED")
    step = saved_step(tmp_path / "state")
    assert job.show()["JobState"] == "PENDING", job.describe()
    job.wait_for(f"from step {step}", times=2)
    shown = job.show()
    assert (shown["JobState"], shown["Restarts"]) == ("RUNNING", "1"), job.describe()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_time_limit_saved_requeued_resumed(box: SlurmBox, tmp_path: Path, launcher: str) -> None:
    options = ("--time=1", "--signal=B:USR1@50")
    job = light(box, tmp_path / "state", options=options, launcher=launcher)
    job.wait_for("job " + job.number + " is queued again", seconds=150)
    job.wait_for(f"from step {saved_step(tmp_path / 'state')}", times=2)
    assert "Exit code:    75" in job.printed() or "exit code 75" in job.printed(), job.describe()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_told_to_end_and_not_to_come_back(box: SlurmBox, tmp_path: Path, launcher: str) -> None:
    """Its exit status is that of the ranks, 75."""
    job = light(box, tmp_path / "state", options=("--no-requeue",), launcher=launcher)
    job.wait_for("from step 0", times=2)
    box.call("scancel", "--batch", "--signal=USR1", job.number)
    shown = job.wait_for_state("FAILED")
    assert (shown["ExitCode"], shown["Restarts"]) == ("75:0", "0"), job.describe()
    assert "submit it once more" in job.printed()
    assert saved_step(tmp_path / "state") > 0


@pytest.mark.long
def test_cancelled_jobs_stay_cancelled(box: SlurmBox, tmp_path: Path) -> None:
    """Although all ranks have saved and ended with 75."""
    job = light(box, tmp_path / "state")
    job.wait_for("from step 0", times=2)
    box.call("scancel", job.number)
    job.wait_for("has saved", times=2)
    box.wait_until_idle()
    shown = job.show()
    assert (shown["JobState"], shown["Restarts"]) == ("CANCELLED", "0"), job.describe()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_a_training_goes_on_where_it_was(box: SlurmBox, tmp_path: Path, launcher: str) -> None:
    """With hvdkit's BackupAndRestore: told by a signal, queued again, gone on, told again.

    mpirun's daemons end at the SIGTERM of a pre-emption, and the ranks with them.
    """
    command = [sys.executable, str(TRAINING), str(tmp_path), "--wait"]
    env = {**ENV, "HVDKIT_LAUNCHER": launcher}
    job = box.submit(SCRIPT, *command, options=SMALL, env=env)
    for start in (1, 2):
        job.wait_for("training ", times=start)
        if start == 2 and launcher == "srun":
            take_the_nodes(box)
        else:
            box.call("scancel", "--batch", "--signal=USR1", job.number)
        job.wait_for("told to end by a signal", times=start)
    job.wait_for("is queued again", times=2)
    assert job.printed().count("going on from ") == 1, job.describe()
    ended = re.findall(r"exit code (\d+)", job.printed().lower().replace(":    ", " "))
    assert set(ended) == {"75"}, job.describe()


@pytest.mark.long
def test_srun_without_pmix_is_refused(box: SlurmBox, tmp_path: Path) -> None:
    """One task explains it, all end with status 1."""
    script = "import hvdkit as hvd; hvd.init(); print('it trains alone')"
    options = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--kill-on-bad-exit=1"]
    done = box.run("srun", *options, sys.executable, "-c", script)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert said.count("MPI has to be told of each other by PMIx") == 1, said
    assert "it trains alone" not in said
