"""What init sets: threads from affinity and quota, MPI's idle policy, and what the user set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch import run_ranks

from hvdkit.engine import several_hosts
from hvdkit.engine.cores import cgroup_quota, threads_per_rank
from hvdkit.engine.launcher import Launch, read_launch
from hvdkit.engine.neighbours import missing_neighbours
from hvdkit.engine.same_versions import different_versions
from hvdkit.engine.settings import before_start, idle_cores_advice, set_variable

FOUR = frozenset(range(4))
YIELD = "OMPI_MCA_mpi_yield_when_idle"
PRINT_THREADS = (
    "import hvdkit as hvd, tensorflow as tf; hvd.init(**{}); "
    "print('THREADS', tf.config.threading.get_intra_op_parallelism_threads())"
)


@pytest.mark.parametrize(
    ("own", "neighbours", "quota", "threads"),
    [
        (FOUR, [FOUR], None, 4),
        (FOUR, [FOUR, FOUR], None, 2),
        (FOUR, [FOUR] * 8, None, 1),
        (frozenset({0, 1}), [frozenset({0, 1}), frozenset({2, 3})], None, 2),
        (FOUR, [FOUR, FOUR], 2.0, 1),
        (FOUR, [FOUR], 2.5, 2),
        (FOUR, [FOUR], 0.5, 1),
    ],
)
def test_threads_fill_the_cores_once(
    own: frozenset[int], neighbours: list[frozenset[int]], quota: float | None, threads: int
) -> None:
    assert threads_per_rank(own, neighbours, quota) == threads


def test_cgroup_quota_v2_and_v1(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.write_text("0::/job\n")
    (tmp_path / "job").mkdir()
    assert cgroup_quota(tmp_path, own) is None
    (tmp_path / "job" / "cpu.max").write_text("150000 100000\n")
    assert cgroup_quota(tmp_path, own) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cgroup_quota(tmp_path, own) == 1.5
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cgroup_quota(tmp_path, own) == 1.0


@pytest.mark.parametrize(
    ("environ", "launch"),
    [
        ({}, Launch("python", 1, 1)),
        (
            {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            Launch("Open MPI", 4, 2),
        ),
        (
            {"HOROVOD_SIZE": "4", "HOROVOD_LOCAL_SIZE": "4"},
            Launch("horovodrun over Gloo", 4, 4),
        ),
        (
            {"HOROVOD_SIZE": "2", "HOROVOD_LOCAL_SIZE": "1", "HOROVOD_ELASTIC": "1"},
            Launch("horovodrun over Gloo", 2, 1, is_elastic=True),
        ),
        ({"PMI_SIZE": "8", "MPI_LOCALNRANKS": "4"}, Launch("MPICH or Intel MPI", 8, 4)),
        (
            {
                "SLURM_STEP_NUM_TASKS": "5",
                "SLURM_STEP_TASKS_PER_NODE": "1(x2),3",
                "SLURM_NODEID": "2",
            },
            Launch("srun", 5, 3),
        ),
        # A job's script, without srun.
        ({"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4"}, Launch("python", 1, 1)),
    ],
)
def test_launchers_are_recognised(environ: dict[str, str], launch: Launch) -> None:
    assert read_launch(environ) == launch


OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
}
MPICH = {"PMI_SIZE": "8", "PMI_RANK": "3", "MPI_LOCALNRANKS": "4"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURMD_NODENAME": "node1",
}


SAID, SAID_ELSEWHERE = True, False


@pytest.mark.parametrize(
    ("size", "local_size", "changed", "text", "is_said_here", "is_error"),
    [
        (4, 1, {}, "MPI sees 1 of them there", SAID, False),
        (4, 1, {"SLURM_LOCALID": "1"}, "MPI sees 1 of them there", SAID_ELSEWHERE, False),
        (4, 2, {"SLURM_STEP_TASKS_PER_NODE": "1,3"}, "has started 3 tasks", SAID, False),
        (1, 1, {"SLURM_PROCID": "0"}, "srun has started 4 tasks, but each", SAID, True),
        (1, 1, {}, "srun has started 4 tasks, but each", SAID_ELSEWHERE, True),
        (1, 1, OPEN_MPI, "mpirun has started 8 processes, but each", SAID_ELSEWHERE, True),
        (1, 1, {**MPICH, "PMI_RANK": "0"}, "mpirun has started 8 processes", SAID, True),
        (1, 1, {"SLURM_STEP_NUM_TASKS": "", "SLURM_NTASKS": "4"}, "has 4 tasks", SAID, False),
    ],
)
def test_ranks_that_did_not_find_each_other(
    size: int,
    local_size: int,
    changed: dict[str, str],
    text: str,
    is_said_here: bool,
    is_error: bool,
) -> None:
    """One task of a host says it, or one of all where each is alone."""
    missing = missing_neighbours(size, local_size, SRUN | changed)
    assert missing is not None
    assert text in missing.text
    assert (missing.is_said_here, missing.is_error) == (is_said_here, is_error)


@pytest.mark.parametrize(
    ("size", "local_size", "environ"),
    [
        (1, 1, {}),
        (4, 2, SRUN),
        (1, 1, SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "0,1"}),
        (1, 1, SRUN | {"HVDKIT_ALONE": "1"}),
        (1, 1, OPEN_MPI | {"HVDKIT_ALONE": "1"}),
        # mpirun started fewer ranks than the allocation has tasks, through a step of srun's.
        (2, 1, SRUN | OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "2", "SLURM_NTASKS": "8"}),
        (1, 1, SRUN | OPEN_MPI | {"HOROVOD_SIZE": "1", "HOROVOD_LOCAL_SIZE": "1"}),
    ],
)
def test_ranks_that_found_each_other(size: int, local_size: int, environ: dict[str, str]) -> None:
    assert missing_neighbours(size, local_size, environ) is None


def test_the_environment_wins_over_defaults_and_arguments_over_it() -> None:
    environ = {"A": "theirs"}
    assert set_variable("A", "ours", "", given=False, environ=environ).value == "theirs"
    assert set_variable("A", "argument", "", given=True, environ=environ).value == "argument"
    assert set_variable("B", "ours", "why", given=False, environ=environ).reason == "why"
    assert environ == {"A": "argument", "B": "ours"}


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Put back what `before_start` sets."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_idle_policy_follows_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    for local_size, expected in ((1, "0" if cores > 1 else "1"), (cores, "1")):
        monkeypatch.delenv(YIELD, raising=False)
        before_start(
            Launch("Open MPI", local_size, local_size),
            cycle_time_ms=None,
            yield_when_idle=None,
            stall_timeout=None,
            may_start_again=False,
            watched=False,
        )
        assert os.environ[YIELD] == expected


@pytest.mark.parametrize("given", ["HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD"])
def test_what_horovod_can_start_again_with(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.delenv("HOROVOD_GLOO_TIMEOUT_SECONDS", raising=False)
    both = {"HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD"}
    for name in both - {given}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(given, "0")
    before_start(
        Launch("horovodrun over Gloo", 2, 1, is_elastic=True),
        cycle_time_ms=None,
        yield_when_idle=None,
        stall_timeout=None,
        may_start_again=True,
        watched=False,
    )
    assert {name for name in both if name in os.environ} == {given}
    assert os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"] == "120"


def test_advice_when_binding_leaves_cores_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvdkit.engine.settings._host_cores", lambda: 8)
    bound = [frozenset({0}), frozenset({1})]
    advice = idle_cores_advice(Launch("Open MPI", 2, 2), bound)
    assert advice is not None
    assert "--map-by slot:PE=4" in advice
    assert idle_cores_advice(Launch("Open MPI", 2, 2), [frozenset(range(8))] * 2) is None


def test_threads_of_real_ranks() -> None:
    cores = len(os.sched_getaffinity(0))
    for ranks in (1, 2):
        job = run_ranks(
            "mpi", ranks, ["-c", PRINT_THREADS.format({})], forked=True
        ).require_success()
        assert job.output.count(f"THREADS {max(1, cores // ranks)}") == ranks, job.output
        assert job.output.count("TensorFlow threads = ") == 1, "said once, by rank 0"


@pytest.mark.long
def test_the_user_sets_threads() -> None:
    job = run_ranks("python", 1, ["-c", PRINT_THREADS.format({"threads": 3})], forked=True)
    assert "THREADS 3" in job.require_success().output
    one = {"OMP_NUM_THREADS": "1"}
    job = run_ranks("python", 1, ["-c", PRINT_THREADS.format({})], env=one, forked=True)
    assert "OMP_NUM_THREADS = 1 (from the environment)" in job.require_success().output


@pytest.mark.long
def test_too_late_is_said() -> None:
    script = (
        "import tensorflow as tf; tf.constant(1); from mpi4py import MPI; "
        "import hvdkit as hvd; hvd.init()"
    )
    output = run_ranks("mpi", 2, ["-c", script]).require_success().output
    assert output.count("too late to set TensorFlow's threads") == 1
    assert output.count("too late to set MPI's idle policy") == 1


def test_bridges_are_left_out_on_several_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["lo", "eth0", "docker0", "ib0", "virbr0", "br0"]
    assert several_hosts.bridges(names) == ["docker0", "virbr0"]
    monkeypatch.setattr(several_hosts.psutil, "net_if_addrs", lambda: dict.fromkeys(names))
    for name in (several_hosts._INCLUDE, several_hosts._EXCLUDE):
        monkeypatch.delenv(name, raising=False)
    two_hosts = Launch("Open MPI", 4, 2)
    (setting,) = several_hosts.several_hosts_settings(two_hosts, watched=False)
    assert setting.value == "127.0.0.1/8,sppp,docker0,virbr0"
    monkeypatch.setenv(several_hosts._EXCLUDE, "lo")
    assert several_hosts.several_hosts_settings(two_hosts, watched=False)[0].value == "lo"
    monkeypatch.setenv(several_hosts._INCLUDE, "eth0")
    assert several_hosts.several_hosts_settings(two_hosts, watched=False) == []
    monkeypatch.delenv(several_hosts._INCLUDE)
    assert several_hosts.several_hosts_settings(Launch("Open MPI", 2, 2), watched=True) == []


def test_versions_that_differ_are_named() -> None:
    one = {"hvdkit": "0.2", "Keras": "3.15.1"}
    assert different_versions([("h1", one), ("h2", one)]) is None
    problem = different_versions([("h1", one), ("h2", {**one, "Keras": "3.14"}), ("h3", one)])
    assert problem is not None
    assert "different versions: Keras 3.15.1 on h1, h3, 3.14 on h2." in problem
