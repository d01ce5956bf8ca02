"""The pods of the MPIJobs run here as the operator starts them, without Kubernetes.

An ordinary user's sshd with the keys that the operator mounts, and the launcher's own command.
"""

from __future__ import annotations

import shutil
import signal

import pytest
from launch import ROOT
from pods import HOME, MPIJob

LIGHT = ["python", "light_job.py", "/tmp/state"]


def bring(job: MPIJob, *files: str) -> None:
    """Add files of the tests to the image."""
    for file in files:
        shutil.copy(ROOT / "tests" / file, job.root / HOME.lstrip("/") / "hvdkit")


@pytest.mark.long
def test_ranks_on_two_workers(job: MPIJob) -> None:
    """All four, two a worker; and the launcher ends as they do."""
    bring(job, "light_job.py")
    job.start_workers()
    launcher = job.start_launcher([*LIGHT, "1"])
    assert launcher.wait(60) == 0, job.describe()
    for rank in range(4):
        place = f"local rank {rank % 2} of 2 on hvdkit-worker-{rank // 2}"
        assert f"rank {rank} of 4, {place}" in launcher.printed(), job.describe()


@pytest.mark.parametrize("who", [pytest.param("launcher", marks=pytest.mark.long), "worker"])
def test_pods_that_have_to_go_let_the_ranks_save(job: MPIJob, who: str) -> None:
    """The launcher gets SIGTERM; a worker's hook comes before it."""
    bring(job, "light_job.py")
    workers = job.start_workers()
    launcher = job.start_launcher(LIGHT)
    launcher.wait_for("from step 0", times=4)
    if who == "launcher":
        launcher.send_signal(signal.SIGTERM)
    else:
        workers[1].execute([f"{HOME}/hvdkit/mpi/kubernetes/before-stop.sh"])
    assert launcher.wait(60) == 75, job.describe()
    assert "rank 0 has saved" in launcher.printed(), job.describe()


def test_an_image_without_hvdkit(job: MPIJob) -> None:
    """The worker says so and ends; it does not wait for ranks that can't run."""
    (job.root / "opt/hvdkit").unlink()
    worker = job.start_worker(0)
    assert worker.wait(30) == 1, job.describe()
    assert "this image has no hvdkit" in worker.printed()


@pytest.mark.long
def test_a_training_goes_on_when_the_launcher_starts_again(job: MPIJob) -> None:
    """With hvdkit's BackupAndRestore, on the volume that all workers mount."""
    bring(job, "faults/resumed.py")
    checkpoints = job.root / "checkpoints"
    checkpoints.mkdir()
    checkpoints.chmod(0o777)
    workers = job.start_workers()
    for start in (1, 2):
        launcher = job.start_launcher(["python", "resumed.py", "/checkpoints", "--wait"])
        launcher.wait_for("training ", seconds=240)
        workers[1].execute([f"{HOME}/hvdkit/mpi/kubernetes/before-stop.sh"])
        assert launcher.wait(60) == 75, job.describe()
        assert "told to end by a signal" in launcher.printed(), job.describe()
        assert ("going on from" in launcher.printed()) == (start == 2), job.describe()


@pytest.mark.long
def test_elastic_job_loses_a_worker_and_takes_it_back(elastic_job: MPIJob) -> None:
    """The new pod has the name of the one in which a rank has died."""
    workers = elastic_job.start_workers()
    script = ["python", "examples/elastic_digits.py", "--epochs", "10000"]
    launcher = elastic_job.start_launcher(script)
    launcher.wait_for("with 2 ranks", seconds=120)
    elastic_job.list_running(0)
    workers[1].send_signal(signal.SIGKILL)
    launcher.wait_for("with 1 ranks", seconds=120)
    elastic_job.start_worker(1).wait_for("Server listening")
    elastic_job.list_running(0, 1)
    launcher.wait_for("with 2 ranks", times=2, seconds=200)


@pytest.mark.long
def test_elastic_job_ends(elastic_job: MPIJob) -> None:
    elastic_job.start_workers()
    launcher = elastic_job.start_launcher(["python", "examples/elastic_digits.py", "--epochs", "2"])
    assert launcher.wait(240) == 0, elastic_job.describe()
