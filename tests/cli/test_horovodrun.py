"""The launcher that `hvdkit build` installs in the place of Horovod's."""

from __future__ import annotations

import pytest
from launch import run_ranks

from hvdkit_cli.horovodrun import BINDING, with_binding

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
