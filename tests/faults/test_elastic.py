"""Elastic jobs whose workers are killed and joined by others, and their state on real ranks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from launch import LIKE_A_USER, Finished, run_elastic, run_ranks
from rank_checks import Check
from rank_pool import RankPools

JOBS = [("elastic", "gloo", 2)]
LONG_JOBS = [("elastic", "mpi", 3)]
TRAINING = "tests/faults/elastic.py"
EPOCHS = 6
BATCHES_PER_COMMIT = 3
LOSS_TOLERANCE = 0.03

Line = dict[str, object]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


@dataclass(frozen=True)
class Diary:
    """What the processes of a job wrote down.

    Attributes:
        job: the job.
        by_host: the lines of each process, by the name of its host.
    """

    job: Finished
    by_host: dict[str, list[Line]]

    def survivor(self) -> list[Line]:
        """The lines of a process that was there from the start to the end."""
        whole = [lines for lines in self.by_host.values() if lines[-1]["what"] == "end"]
        return min(whole, key=lambda lines: lines[0]["time"])

    def ends(self) -> list[Line]:
        """The last line of each process that came to the end."""
        return [lines[-1] for lines in self.by_host.values() if lines[-1]["what"] == "end"]


def _run(folder: Path, hosts: list[str], *arguments: str) -> Diary:
    (folder / "hosts").write_text("".join(f"{host}:1\n" for host in hosts))
    command = [TRAINING, str(folder), *arguments]
    finished = run_elastic(len(hosts), folder / "hosts", command, timeout=200).require_success()
    return Diary(finished, _read(folder))


def _read(folder: Path) -> dict[str, list[Line]]:
    return {
        file.stem.rpartition("-")[0]: [json.loads(line) for line in file.read_text().splitlines()]
        for file in folder.glob("*.jsonl")
    }


@pytest.fixture(scope="module")
def undisturbed_loss(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The loss that one process ends with."""
    folder = tmp_path_factory.mktemp("alone")
    run_ranks("python", 1, [TRAINING, str(folder)]).require_success()
    return _read(folder)["alone"][-1]["loss"]


@pytest.fixture(scope="module")
def rank_0_dies(tmp_path_factory: pytest.TempPathFactory) -> Diary:
    """A job of two ranks, of which rank 0 is killed in the middle of its second epoch."""
    folder = tmp_path_factory.mktemp("dies")
    return _run(folder, ["localhost", "127.0.0.1"], "--die", "rank0", "35")


@pytest.fixture(scope="module")
def one_joins_one_dies(tmp_path_factory: pytest.TempPathFactory) -> Diary:
    """Two ranks; a third joins in the first epoch, and one of the first is killed in the fourth.

    Horovod takes names that differ for different hosts, though all are this machine.
    """
    folder = tmp_path_factory.mktemp("joins")
    hosts = ["localhost", "127.0.0.1"]
    return _run(folder, hosts, "--join", "LOCALHOST", "10", "--die", "127.0.0.1", "70")


@pytest.fixture(params=["rank_0_dies", "one_joins_one_dies"])
def diary(request: pytest.FixtureRequest) -> Diary:
    """Each of the jobs."""
    return request.getfixturevalue(request.param)


@pytest.mark.long
def test_training_goes_on_when_rank_0_dies(rank_0_dies: Diary) -> None:
    (end,) = rank_0_dies.ends()
    assert end["resets"] == [1], rank_0_dies.job.describe()
    assert end["epoch"] == EPOCHS
    sizes = [line["size"] for line in rank_0_dies.survivor() if line["what"] == "step"]
    assert sizes[:35] == [2] * 35
    assert set(sizes[35:]) == {1}


@pytest.mark.long
def test_training_goes_on_with_a_rank_that_joins_and_without_one_that_dies(
    one_joins_one_dies: Diary,
) -> None:
    ends = one_joins_one_dies.ends()
    assert [end["resets"] for end in ends] == [[3, 2]] * 2, one_joins_one_dies.job.describe()
    assert {end["epoch"] for end in ends} == {EPOCHS}
    assert {end["size"] for end in ends} == {2}
    joined = one_joins_one_dies.by_host["LOCALHOST"]
    assert joined[-1]["what"] == "end"
    steps = [line for line in joined if line["what"] == "step"]
    assert steps[0]["size"] == 3
    assert steps[0]["step"] > 10  # it did not start from its own, new state


@pytest.mark.long
def test_ranks_end_with_the_same_weights(one_joins_one_dies: Diary) -> None:
    assert len({end["weights"] for end in one_joins_one_dies.ends()}) == 1


@pytest.mark.long
def test_final_loss_is_that_of_an_undisturbed_run(diary: Diary, undisturbed_loss: float) -> None:
    for end in diary.ends():
        assert end["loss"] == pytest.approx(undisturbed_loss, rel=LOSS_TOLERANCE)


@pytest.mark.long
def test_nothing_is_lost_but_the_steps_since_the_last_commit(diary: Diary) -> None:
    lines = diary.survivor()
    begins = [i for i, line in enumerate(lines) if line["what"] == "begin"][1:]
    assert begins
    for i in begins:
        before = lines[:i]
        synced = [line["size"] for line in before].count(lines[i]["size"])
        assert synced, "the state is saved once more by the new ranks"
        commit = next(
            line
            for line in reversed(before)
            if line["what"] == "commit" and line["size"] != lines[i]["size"]
        )
        last_step = next(line for line in reversed(before) if line["what"] == "step")
        assert (lines[i]["step"], lines[i]["weights"]) == (commit["step"], commit["weights"])
        assert last_step["step"] - commit["step"] <= BATCHES_PER_COMMIT
        if lines[i]["size"] > commit["size"]:
            assert last_step["step"] == commit["step"], "a rank that joins costs nothing"


@pytest.mark.long
def test_epochs_go_on_at_the_batch_with_the_next_rows(diary: Diary) -> None:
    lines = diary.survivor()
    for begin in [line for line in lines if line["what"] == "begin"][1:]:
        i = lines.index(begin)
        commit = next(
            line
            for line in reversed(lines[:i])
            if line["what"] == "commit" and line["size"] != begin["size"]
        )
        step = next(line for line in lines[i:] if line["what"] == "step")
        assert begin["batch"] == commit["batch"] * commit["size"] // begin["size"]
        assert (step["epoch"], step["batch"]) == (commit["epoch"], begin["batch"])
    steps = [line for line in lines if line["what"] == "step"]
    for one, other in pairwise(steps):
        if one["size"] == other["size"] and one["epoch"] == other["epoch"]:
            assert other["batch"] == one["batch"] + 1


@pytest.mark.long
def test_a_step_made_outside_is_right_for_any_number_of_ranks(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("localhost:1\n127.0.0.1:1\n")
    job = run_elastic(2, tmp_path / "hosts", ["tests/faults/elastic_step.py", str(tmp_path)])
    output = job.require_success().output
    assert re.search(r"DONE: [45] steps of two, 5 of two again", output), job.describe()


@pytest.mark.long
def test_example(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# one machine under two names\nlocalhost:1\n127.0.0.1:1\n")
    command = ["examples/elastic_digits.py", "--epochs", "3"]
    job = run_elastic(2, tmp_path / "hosts", command, timeout=200, env=LIKE_A_USER)
    output = job.require_success().output
    (accuracy,) = re.findall(r"test accuracy: ([\d.]+)", output)
    assert float(accuracy) > 0.85, job.describe()
    assert "training from epoch 1, batch 1, with 2 ranks" in output, job.describe()
