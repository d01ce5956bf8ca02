"""The launcher that `hvdkit build` installs in the place of Horovod's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from launch import ROOT, run_command, run_ranks

from hvdkit_cli.horovodrun import BINDING, exit_status, with_binding

OPEN_MPI = "mpirun (Open MPI) 5.0.11"
JOB = ["-np", "2", "python", "train.py"]


@pytest.mark.parametrize(
    ("arguments", "version", "expected"),
    [
        (JOB, OPEN_MPI, [BINDING, *JOB]),
        (["--gloo", *JOB], OPEN_MPI, [BINDING, "--gloo", *JOB]),
        (
            ["--binding-args=--bind-to core", *JOB],
            OPEN_MPI,
            ["--binding-args=--bind-to core", *JOB],
        ),
        (["--binding-args", "-x", *JOB], OPEN_MPI, ["--binding-args", "-x", *JOB]),
        (JOB, "HYDRA build details", JOB),
        (JOB, "", JOB),
    ],
)
def test_binding_is_added_for_open_mpi(
    arguments: list[str], version: str, expected: list[str]
) -> None:
    assert with_binding(arguments, version) == expected


def test_horovodrun_starts_ranks_over_mpi() -> None:
    code = (
        "import hvdkit as hvd; hvd.init(); print('SUM', hvd.allreduce(hvd.rank() + 1, op=hvd.Sum))"
    )
    job = run_ranks("horovodrun", 2, ["-c", code]).require_success()
    assert job.output.count("SUM 3") == 2, job.output


@pytest.mark.parametrize("launcher", ["--mpi", "--gloo"])
def test_horovodrun_does_not_load_tensorflow_and_tells_the_ranks_to_keep_it_quiet(
    launcher: str, tmp_path: Path
) -> None:
    (tmp_path / "tensorflow.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')\n")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "TF_CPP_MIN_LOG_LEVEL": ""}
    command = ["sh", "-c", "echo level $TF_CPP_MIN_LOG_LEVEL"]
    without = ["env", "-u", "TF_CPP_MIN_LOG_LEVEL"]
    quiet = run_command(
        [*without, "horovodrun", launcher, "-np", "2", *command], timeout=60, env=env
    ).require_success()
    assert quiet.output.count("level 1") == 2, quiet.describe()
    asked = {**env, "TF_CPP_MIN_LOG_LEVEL": "0"}
    asking = run_command(
        ["horovodrun", launcher, "-np", "2", *command], timeout=60, env=asked
    ).require_success()
    assert asking.output.count("level 0") == 2, asking.describe()
    assert not (tmp_path / "loaded").exists()


@pytest.mark.parametrize(
    ("launcher", "how", "status"),
    [
        ("--gloo", "exit 75", 75),
        ("--gloo", "kill -9 $$", 137),
        ("--mpi", "exit 75", 75),
    ],
)
def test_the_exit_status_is_that_of_the_ranks(launcher: str, how: str, status: int) -> None:
    job = run_command(["horovodrun", launcher, "-np", "2", "sh", "-c", how], timeout=60)
    assert job.status == status, job.describe()
    assert "Traceback" not in job.output, job.describe()


def test_errors_of_the_launcher_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    job = run_command(["horovodrun", "-np", "2", "--min-np", "1", "true"], timeout=60)
    assert job.status == 1
    expected = "horovodrun: error: Cannot run in fault tolerance mode with fewer than 2 hosts.\n"
    assert job.output == expected, job.describe()
    assert exit_status(RuntimeError("Process name: 1\nExit code: 75\n")) == 75
    assert capfd.readouterr().err == ""
