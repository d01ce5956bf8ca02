"""The exit status of `hvdkit run` is true, whatever the launcher says, and nothing is left."""

from __future__ import annotations

import re
import shlex
import signal
import time
from pathlib import Path

import psutil
import pytest
from launch import run_command
from run_jobs import HVDKIT, LAUNCHERS, run, script, stand_in, started, wait_for

from hvdkit_cli.run.outcome import ElasticOutcome, End, Outcome

SLEEP = "print('PID', os.getpid(), flush=True); time.sleep(100)"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_status_is_that_of_the_rank_that_fails(launcher: str, tmp_path: Path) -> None:
    code = "print('from', rank); print('why', file=sys.stderr); sys.exit(3 * rank)"
    job = run("-np", "2", "--launcher", launcher, *script(code), logs=tmp_path)
    assert job.status == 3, job.describe()
    assert job.output.count("from 0") == 1, job.describe()
    assert re.search(r"failed after \d s: rank 1 \(host .+, pid \d+\) ended with exit status 3\.$",
                     job.output, re.MULTILINE), job.describe()  # fmt: skip
    assert f"{tmp_path}/rank1.log" in job.output
    for rank in (0, 1):
        lines = (tmp_path / f"rank{rank}.log").read_text().splitlines()
        assert sorted(lines[1:]) == [f"from {rank}", "why"]


def test_a_launcher_that_says_all_is_well(tmp_path: Path) -> None:
    """As mpirun does when a host has gone."""
    env = stand_in(tmp_path / "bin", STATUS=0)
    job = run("-np", "2", *script("sys.exit(4 * rank)"), logs=tmp_path, env=env)
    assert job.status == 4, job.describe()


def test_a_launcher_that_complains_of_nothing(tmp_path: Path) -> None:
    env = stand_in(tmp_path / "bin", STATUS=7)
    job = run("-np", "2", *script(""), logs=tmp_path, env=env)
    assert job.status == 0, job.describe()
    assert "mpirun itself ended with exit status 7" in job.output, job.describe()


@pytest.mark.long
@pytest.mark.parametrize("status", [0, 4])
def test_a_launcher_that_hangs_after_its_ranks(status: int, tmp_path: Path) -> None:
    env = stand_in(tmp_path / "bin", HANG=1)
    start = time.monotonic()
    job = run("-np", "2", *script(f"sys.exit({status} * rank)"), logs=tmp_path, env=env)
    assert job.status == status, job.describe()
    assert time.monotonic() - start < 25
    assert status or "all ranks have ended well, but mpirun had not" in job.output


def test_ranks_that_do_not_come_are_named(tmp_path: Path) -> None:
    env = stand_in(tmp_path / "bin", COME=1)
    options = ["--start-timeout", "2", "-H", "localhost:1,nowhere:2", "-np", "3"]
    job = run(*options, *script(SLEEP), logs=tmp_path, env=env)
    assert job.status == 1, job.describe()
    said = "error: rank 1 (host nowhere), rank 2 (host nowhere) did not start within 2 s."
    assert said in job.output, job.describe()
    require_gone(job.output)


def test_a_launcher_that_starts_nothing(tmp_path: Path) -> None:
    env = stand_in(tmp_path / "bin", COME=0, STATUS=9)
    job = run("-np", "1", *script(SLEEP), logs=tmp_path, env=env)
    assert job.status == 9, job.describe()
    assert "mpirun ended with exit status 9 before rank 0" in job.output, job.describe()


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    job = run("-np", "1", "--", "nothing-is-called-so", logs=tmp_path)
    assert job.status == 127, job.describe()
    said = "hvdkit run: error: nothing-is-called-so can't be started on host"
    assert job.output.count(said) == 1, job.describe()


def test_started_in_a_rank_of_another_job(tmp_path: Path) -> None:
    env = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1", "HOROVOD_CONTROLLER": "gloo"}
    code = "print('SEES', sorted(name for name in os.environ if name.startswith('HOROVOD_')))"
    job = run("-np", "2", "--launcher", "mpirun", *script(code), logs=tmp_path, env=env)
    assert job.require_success().output.count("SEES []") == 1, job.describe()
    assert "SEES []" in (tmp_path / "rank1.log").read_text()


@pytest.mark.long
@pytest.mark.parametrize("code", ["signal.signal(signal.SIGTERM, signal.SIG_IGN)", "pass"])
def test_a_script_that_does_not_listen_is_ended(code: str, tmp_path: Path) -> None:
    options = ["-np", "2", *script(f"{code}; {SLEEP}")]
    with started(*options, logs=tmp_path) as (job, out):
        for rank in (0, 1):
            wait_for(tmp_path / f"rank{rank}.log", "PID")
        job.terminate()
        assert job.wait(20) == 143, out.read_text()
        assert "SIGTERM: the ranks are asked to save and end" in out.read_text()
    require_gone(logs_of(tmp_path))


@pytest.mark.long
def test_logs_that_are_removed_change_no_status(tmp_path: Path) -> None:
    code = f"import shutil; shutil.rmtree({str(tmp_path / 'logs')!r}, ignore_errors=True); "
    job = run("-np", "2", *script(f"{code}sys.exit(5)"), logs=tmp_path / "logs")
    assert job.status == 5, job.describe()
    assert "ended with exit status 5" in job.output, job.describe()


@pytest.mark.long
@pytest.mark.parametrize("closed", ["2>&-", "1>&- <&-"])
def test_files_that_are_closed(closed: str, tmp_path: Path) -> None:
    code = f"open({str(tmp_path)!r} + f'/came{{rank}}', 'w'); print(chr(15) * 10); sys.exit(6)"
    command = shlex.join([*HVDKIT, "--log-dir", str(tmp_path / "logs"), "-np", "2", *script(code)])
    job = run_command(["bash", "-c", f"{command} {closed}"], timeout=40)
    assert job.status == 6, job.describe()
    assert {file.name for file in tmp_path.glob("came*")} == {"came0", "came1"}


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_that_is_killed(launcher: str, tmp_path: Path) -> None:
    """The other one, which knows nothing of it, is ended."""
    code = f"os.kill(os.getpid(), 9) if rank else None; {SLEEP}"
    job = run("-np", "2", "--launcher", launcher, *script(code), logs=tmp_path)
    assert job.status == 128 + 9, job.describe()
    assert re.search(r"rank 1 \(.+\) was ended by signal 9 \(SIGKILL\)", job.output)
    assert "hvdkit run has ended rank 0" in job.output, job.describe()
    require_gone(job.output)


@pytest.mark.long
@pytest.mark.parametrize(
    ("launcher", "victim"), [("mpirun", "prterun"), ("mpirun", "bash"), ("gloo", "python")]
)
def test_the_launcher_is_killed(launcher: str, victim: str, tmp_path: Path) -> None:
    with started("-np", "2", "--launcher", launcher, *script(SLEEP), logs=tmp_path) as (job, out):
        for rank in (0, 1):
            wait_for(tmp_path / f"rank{rank}.log", "PID")
        next(process for process in below(job.pid) if process.name() == victim).kill()
        assert job.wait(40) != 0
        assert "was ended by signal 9 (SIGKILL) while ranks were running" in out.read_text()
    require_gone(logs_of(tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_hvdkit_run_itself_is_killed(launcher: str, tmp_path: Path) -> None:
    with started("-np", "2", "--launcher", launcher, *script(SLEEP), logs=tmp_path) as (job, _):
        for rank in (0, 1):
            wait_for(tmp_path / f"rank{rank}.log", "PID")
        all_ = below(job.pid)
        job.kill()
        _, alive = psutil.wait_procs(all_, timeout=20)
        assert not alive


@pytest.mark.long
def test_what_a_rank_has_started_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess; child = subprocess.Popen(['sleep', '100']); "
        "print('PID', child.pid, flush=True)"
    )
    job = run("-np", "2", *script(code), logs=tmp_path, timeout=20)
    assert job.status == 0, job.describe()
    require_gone(logs_of(tmp_path))


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def logs_of(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.glob("rank*.log"))


def require_gone(output: str) -> None:
    pids = [int(pid) for pid in re.findall(r"PID (\d+)", output)]
    assert pids, output
    end = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []


def end(rank: int, status: int | None, at: float = 1.0, **more: bool) -> End:
    return End(rank, f"rank {rank}", f"rank{rank}", status, at, **more)


KILLED, LOST = -signal.SIGKILL, None
# What happened; the exit status, the rank that is named, and whether it is the machines' fault.
CASES = {
    "all is well": (Outcome([end(0, 0), end(1, 0)]), 0, None, False),
    "an exception": (Outcome([end(1, 1), end(0, 1)]), 1, 1, False),
    "killed": (Outcome([end(1, KILLED), end(0, 1, 1.4)]), 137, 1, True),
    "a core that takes a while": (Outcome([end(0, 1), end(1, -11, 1.5)]), 139, 1, True),
    "ended because of another": (Outcome([end(1, 3), end(0, -15, 12, told=True)]), 3, 1, False),
    "killed long after an error": (Outcome([end(0, 1), end(1, KILLED, 9.0)]), 1, 0, False),
    "a host that is gone": (Outcome([end(0, 1), end(1, LOST, 30.0, silent=True)]), 1, 1, True),
    "gone, and told to end": (
        Outcome([end(0, 1), end(1, LOST, 20, told=True, silent=True)]), 1, 1, True,
    ),
    "saved by themselves": (Outcome([end(0, 75), end(1, 75)]), 75, 0, True),
    "saved when asked": (Outcome([end(0, 75)], signal=signal.SIGTERM), 75, 0, False),
    "Ctrl-C": (Outcome([end(0, -15)], signal=signal.SIGINT), 130, 0, False),
    "never came": (Outcome([end(0, -15, told=True)], ["rank 1"]), 1, None, True),
    "failed, and others never came": (Outcome([end(0, 3)], ["rank 1"]), 3, 0, False),
    "one never came, so all were ended": (
        Outcome([end(0, -15, signalled=True)], ["rank 1"], launcher=1), 1, 0, True,
    ),
    "mpirun was killed": (
        Outcome([end(0, -15, told=True)], launcher=137, launcher_ended_first=True), 1, None, True,
    ),
    "MPI_Abort": (Outcome([end(0, LOST, signalled=True), end(1, 6, 1.1)]), 6, 1, False),
    "ended by the launcher": (
        Outcome([end(0, LOST, signalled=True)], launcher=6, launcher_ended_first=True), 6, 0, False,
    ),
    "a host, and then its launcher": (
        Outcome([end(1, LOST), end(0, -15, signalled=True)], launcher=255), 1, 1, True,
    ),
    "elastic": (ElasticOutcome([end(0, KILLED), end(1, 0)], launcher=0), 0, 0, False),
    "elastic, all failed": (ElasticOutcome([end(0, 1)], launcher=3), 3, 0, False),
    "elastic, in silence": (ElasticOutcome([], launcher=0), 1, None, False),
}  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("name", CASES)
def test_what_an_end_means(name: str) -> None:
    outcome, status, rank, machines = CASES[name]
    assert outcome.status() == status
    assert (outcome.cause.rank if outcome.cause else None) == rank
    assert outcome.is_fault_of_machines() == machines
