"""The doctor, on this very machine and on made-up trouble."""

import json
import sys
import time

import psutil
import pytest
from support import fake_tensorflow, hvdkit

from hvdkit_cli.doctor import environment, jobs
from hvdkit_cli.doctor.report import as_json
from hvdkit_cli.doctor.trial import Outcome, _run, trial_environment
from hvdkit_cli.installed import TensorFlow

LINES = ("Python", "TensorFlow", "Keras", "Horovod", "Horovod built for", "MPI", "mpi4py", "Gloo")
LINES += ("NCCL", "devices", "two ranks, MPI", "one MPI for both", "two ranks, Gloo")


def _by_name(text):
    report = json.loads(text)
    return report, {check["name"]: check for check in report["checks"]}


@pytest.mark.long
@pytest.mark.timeout(290)
def test_all_is_well_here():
    done = hvdkit("doctor", "--json", "--timeout", "90", timeout=280)
    report, checks = _by_name(done.stdout)
    assert tuple(checks) == LINES
    assert [check for check in report["checks"] if check["status"] == "fail"] == []
    assert done.returncode == 0
    assert report["ok"] is True
    assert checks["two ranks, MPI"]["status"] in ("ok", "skip")
    assert checks["two ranks, Gloo"]["detail"] == "allreduce over 2 ranks is right"


@pytest.mark.long
@pytest.mark.timeout(290)
def test_horovod_built_for_another_tensorflow(tmp_path):
    fake_tensorflow(tmp_path, version="2.21.9")
    done = hvdkit(
        *("doctor", "--json", "--timeout", "90"), env={"PYTHONPATH": str(tmp_path)}, timeout=280
    )
    report, checks = _by_name(done.stdout)
    assert done.returncode == 1
    assert report["ok"] is False
    line = checks["Horovod built for"]
    assert line["status"] == "fail"
    assert "2.21.0" in line["detail"]
    assert "2.21.9 is installed" in line["detail"]
    assert line["remedy"] == "hvdkit build"


def test_record_tells_builds_of_one_version_apart(monkeypatch, tmp_path):
    facts = {"tensorflow": "tensorflow 2.21.0", "tensorflow_build": "abc", "device": "gpu"}
    monkeypatch.setattr(environment, "distribution", lambda name: object())
    monkeypatch.setattr(environment, "read_record", lambda: environment.BuildRecord("key", facts))
    same = TensorFlow("tensorflow", "2.21.0", "abc", tmp_path, "12.5")
    assert environment.check_built_for(same).status == "ok"
    other = TensorFlow("tensorflow", "2.21.0", "def", tmp_path, "12.5")
    check = environment.check_built_for(other)
    assert check.failed
    assert check.remedy == "hvdkit build --gpu"
    assert environment.check_built_for(TensorFlow("x", "2.21.0", "abc", tmp_path, None)).failed


def test_each_failure_has_a_remedy(monkeypatch):
    monkeypatch.setattr(environment, "distribution", lambda name: None)
    checks = [
        environment.check_horovod(),
        environment.check_mpi(True, {"PATH": "/none"}),
        jobs.check_mpi4py_match([{"mpi4py_error": "ImportError: x"}]),
        jobs.check_mpi4py_match([{"loaded_mpis": ["/a/libmpi.so.40", "/b/libmpi.so.12"]}]),
        jobs._judge("job", Outcome("did not end within 3 s", "waiting"), "do this"),
        jobs._judge("job", Outcome(results=[{"size": 1, "sum": 1, "expected": 1}] * 2), "do this"),
        jobs._judge("job", Outcome(results=[{"size": 2, "sum": 1, "expected": 3}] * 2), "do this"),
    ]
    assert all(check.failed and check.remedy for check in checks)
    assert json.loads(as_json(checks))["ok"] is False


def test_a_trial_that_hangs_is_ended_with_all_it_started(tmp_path):
    script = f"{sys.executable} -c 'import time; time.sleep(300)' & wait"
    start = time.monotonic()
    outcome = _run(["sh", "-c", script], {"PATH": "/bin:/usr/bin"}, 1.0, tmp_path)
    assert outcome.problem == "did not end within 1 s"
    assert time.monotonic() - start < 15
    mine = psutil.Process().children(recursive=True)
    assert not any("time.sleep(300)" in " ".join(child.cmdline()) for child in mine)


def test_a_trial_inside_a_job_starts_its_own():
    env = trial_environment({"OMPI_COMM_WORLD_RANK": "1", "HOROVOD_RANK": "1", "PATH": "/p"})
    assert "OMPI_COMM_WORLD_RANK" not in env
    assert "HOROVOD_RANK" not in env
    assert env["PATH"].endswith(":/p")
