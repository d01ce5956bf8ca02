"""hvd.run: functions on ranks over MPI and Gloo, from a process like a notebook's."""

from __future__ import annotations

import pytest
from launch import run_ranks

# Started with -c: its functions are in no file, and TensorFlow is in use.
CODE = """
import os, sys, time
import tensorflow as tf
import hvdkit as hvd

assert float(tf.constant(1.0) + 1.0) == 2.0
launcher = {launcher: True}
offset = 10

def train(base, *, factor):
    hvd.init()
    print("hello from", hvd.rank())
    return base + factor * hvd.allreduce(float(hvd.rank()), op=hvd.Sum) + offset, hvd.size()

hvd.init()  # this process is a job of its own
print("RESULT", hvd.run(train, (1,), dict(factor=2), np=2, **launcher))
print("ENV", hvd.run(lambda: os.environ["MINE"], np=3, env=dict(MINE="x"), **launcher))

def fail():
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["HOROVOD_RANK"])
    if rank == 1:
        raise KeyError("mine")
    time.sleep(60)

try:
    hvd.run(fail, verbose=False, **launcher)
except hvd.FunctionError as error:
    print("ERROR", error.rank, repr(error.__cause__), "in fail" in str(error))
try:
    hvd.run(os._exit, (7,), verbose=False, **launcher)
except hvd.FunctionError as error:
    print("SILENT", str(error).splitlines()[0])
started = time.monotonic()
try:
    hvd.run(time.sleep, (100,), timeout=3, verbose=False, **launcher)
except TimeoutError as error:
    print("LATE", str(error).splitlines()[0], time.monotonic() - started < 20)
for wrong in (dict(np=0), dict(use_mpi=True, use_gloo=True)):
    try:
        hvd.run(time.sleep, (0,), **wrong)
    except ValueError as error:
        print("WRONG", error)
"""


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["use_mpi", "use_gloo"])
def test_functions_on_ranks(launcher: str) -> None:
    code = CODE.replace("{launcher:", f"{{{launcher!r}:")
    job = run_ranks("python", 1, ["-c", code], timeout=200).require_success()
    for line in (
        "RESULT [(13.0, 2), (13.0, 2)]",
        "ENV ['x', 'x', 'x']",
        "ERROR 1 KeyError('mine') True",
        "LATE the ranks of hvd.run() did not end within 3 s; they printed last: True",
        "WRONG np is the number of ranks, at least 1, not 0.",
        "WRONG give use_mpi=True or use_gloo=True, not both.",
    ):
        assert line in job.output, job.describe()
    assert "SILENT rank 0" in job.output, job.describe()
    assert "hello from 0" in job.output, job.describe()
    assert "hello from 1" in job.output, job.describe()


@pytest.mark.long
def test_a_rank_starts_no_job_of_its_own() -> None:
    code = "import hvdkit as hvd; hvd.init(); hvd.run(print)"
    job = run_ranks("mpi", 2, ["-c", code], timeout=60)
    assert job.status not in (0, None), job.describe()
    assert "HvdkitError: hvd.run() starts a job, but this process is rank" in job.output
