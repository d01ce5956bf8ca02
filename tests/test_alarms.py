"""Alarms of jobs that are made up: what they find, how soon, and that they are quiet else."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from launch import run_ranks
from made_up_jobs import (
    STEPS,
    Noise,
    job,
    normal,
    seen,
    skewed,
    with_pauses,
)

from hvdkit.monitoring.alarms.base import Lookout
from hvdkit.monitoring.alarms.defaults import default_alarms
from hvdkit.monitoring.alarms.full_disk import FullDisk
from hvdkit.monitoring.alarms.loss_jump import LossJump
from hvdkit.monitoring.alarms.slow_data import SlowData
from hvdkit.monitoring.alarms.slow_throughput import SlowThroughput
from hvdkit.monitoring.alarms.straggler import Straggler
from hvdkit.monitoring.sample import RankSample, Sample

pytestmark = pytest.mark.quick

# A straggler


@pytest.mark.parametrize("ranks", [2, 3, 4, 16])
@pytest.mark.parametrize("noise", [normal(0.05), normal(0.15), skewed, with_pauses])
def test_equal_ranks_have_no_straggler(ranks: int, noise: Noise) -> None:
    assert seen(Straggler(), job(ranks, 300, noise)) == []


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("noise", [normal(0.0), normal(0.05), normal(0.1)])
def test_a_rank_slowed_by_a_fifth_is_found(ranks: int, noise: Noise) -> None:
    (alarm,) = seen(Straggler(), job(ranks, 100, noise, slow={1: 1.2}, slow_at=30))
    assert alarm.kind == "straggler"
    assert (alarm.rank, alarm.host) == (1, "node0")
    assert 300 < alarm.step <= 300 + 10 * STEPS
    assert alarm.text.startswith("rank 1 (node0) keeps the other ranks waiting since step ")
    assert "see what else runs on its host" in alarm.text


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 4, 16])
@pytest.mark.parametrize("spread", [0.05, 0.1, 0.15])
def test_how_often_and_how_soon(ranks: int, spread: float) -> None:
    assert seen(Straggler(), job(ranks, 20_000, normal(spread))) == []
    found = []
    for seed in range(30):
        samples = job(ranks, 130, normal(spread), slow={1: 1.2}, slow_at=30, seed=seed)
        (first, *_) = seen(Straggler(), samples)
        assert first.rank == 1
        found.append(first.step / STEPS - 30)
    print(f"{ranks} ranks, {spread:.0%}: found in sample {np.median(found):g}")
    assert np.median(found) <= 10


def test_a_straggler_that_reads_slowly() -> None:
    (alarm,) = seen(Straggler(), job(4, 50, normal(0.05), data={3: 0.4}))
    assert alarm.rank == 3
    assert "waits for data for 0.1 s a step longer" in alarm.text


def test_a_slow_host_among_others_is_told_of_as_its_ranks() -> None:
    slow = dict.fromkeys((4, 5, 6, 7), 1.3)
    (alarm,) = seen(Straggler(), job(8, 50, normal(0.0), slow=slow))
    assert (alarm.rank, alarm.host) == (None, "node1")
    assert "ranks 4 (node1), 5 (node1), 6 (node1) and 7 (node1) keep" in alarm.text
    most = dict.fromkeys(range(1, 8), 1.3)
    assert seen(Straggler(), job(8, 50, normal(0.0), slow=most)) == []


def test_many_ranks_are_not_all_named() -> None:
    slow = dict.fromkeys(range(6), 1.5)
    (alarm,) = seen(Straggler(), job(16, 50, normal(0.0), slow=slow))
    assert "3 (node0) and 2 more keep" in alarm.text
    assert alarm.host is None


def test_a_short_pause_is_no_straggler() -> None:
    pause = [*job(2, 20, normal(0.02)), *job(2, 5, normal(0.02), slow={0: 2.0})]
    assert seen(Straggler(), iter(pause + list(job(2, 20, normal(0.02))))) == []


def test_a_straggler_is_told_of_again_only_after_it_has_been_well() -> None:
    well, slow = list(job(2, 12, normal(0.02))), list(job(2, 12, normal(0.02), slow={0: 1.5}))
    assert len(seen(Straggler(), iter(slow * 20))) == 1
    assert len(seen(Straggler(), iter(slow + well[:9] + slow))) == 1
    assert len(seen(Straggler(), iter(slow + well + slow))) == 2


@pytest.mark.parametrize("ranks", [0, 1])
def test_alone_there_is_no_straggler(ranks: int) -> None:
    for sample in job(1, 20, normal(0.1)):
        assert Straggler().look(dataclasses.replace(sample, ranks=sample.ranks[:ranks])) is None


def test_waiting_times_that_are_not_known_say_nothing() -> None:
    def unknown(sample: Sample) -> Sample:
        first, *others = sample.ranks
        values = {**first.values, "waiting_for_ranks_seconds": math.nan}
        return dataclasses.replace(sample, ranks=[RankSample(0, "node0", values), *others])

    samples = (unknown(sample) for sample in job(2, 30, normal(0.0), slow={0: 2.0}))
    assert seen(Straggler(), samples) == []


def test_another_process_with_the_number_of_a_straggler_begins_anew() -> None:
    samples = [*job(4, 7, normal(0.0), slow={3: 1.5}), *job(3, 1, normal(0.0))]
    samples += job(4, 3, normal(0.0), slow={3: 1.5})
    assert seen(Straggler(), iter(samples)) == []


# Data


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_data_that_does_not_keep_up(ranks: int) -> None:
    slow = {ranks - 1: 0.5}
    (alarm,) = seen(SlowData(), job(ranks, 60, normal(0.1), data=slow, slow_at=20))
    assert (alarm.kind, alarm.rank, alarm.step) == ("data", ranks - 1, 280)
    assert f"rank {ranks - 1} (node{(ranks - 1) // 4}) waits for data since step 200" in alarm.text
    assert seen(SlowData(), job(ranks, 60, normal(0.1), data={0: 0.1})) == []


def test_data_of_all_ranks() -> None:
    (alarm,) = seen(SlowData(), job(4, 20, normal(0.05), data=dict.fromkeys(range(4), 0.5)))
    assert alarm.text.startswith("all ranks wait for data since step 0, now for 3")
    assert (alarm.rank, alarm.host) == (None, "node0")


def test_data_of_a_job_without_figures_of_ranks() -> None:
    values = {"step_seconds": 0.2, "waiting_for_data_seconds": 0.1}
    samples = [Sample(10 * i, 1, 10, 1e9, values) for i in range(1, 20)]
    (alarm,) = seen(SlowData(), iter(samples))
    assert alarm.text.startswith("the job waits for data since step 0, now for 50 % of each step")


# Throughput


def test_throughput_that_falls() -> None:
    slow = dict.fromkeys(range(4), 2.0)
    (alarm,) = seen(SlowThroughput(), job(4, 100, normal(0.1), slow=slow, slow_at=50))
    assert (alarm.kind, alarm.step, alarm.rank) == ("throughput", 580, None)
    assert "since step 500, " in alarm.text
    assert "% of its usual " in alarm.text


@pytest.mark.parametrize("noise", [normal(0.2), skewed, with_pauses])
def test_throughput_that_only_varies(noise: Noise) -> None:
    assert seen(SlowThroughput(), job(4, 600, noise)) == []


def test_throughput_of_fewer_ranks_is_another_one() -> None:
    samples = [*job(4, 50, normal(0.1)), *job(2, 50, normal(0.1))]
    assert seen(SlowThroughput(), iter(samples)) == []


# All of them


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Straggler(share=1.0), "Straggler(share=1.0): share is a share, above 0"),
        (lambda: Straggler(share="a"), "share is a share"),  # type: ignore[arg-type]
        (lambda: Straggler(samples=0), "samples is a number of samples, at least 1"),
        (lambda: SlowData(of=2.5), "of is a number of samples"),  # type: ignore[arg-type]
        (lambda: SlowThroughput(samples=9, of=8), "can't be so in 9 of 8 samples"),
        (lambda: SlowData(share=math.nan), "share is a share"),
        (lambda: LossJump(spreads=0), "LossJump(spreads=0): spreads is a number above 0"),
        (lambda: LossJump(of=2), "of is a number of samples, at least 5"),
        (lambda: FullDisk([]), "name a path"),
        (lambda: FullDisk(free=-1), "free is a number above 0"),
        (lambda: FullDisk(within=math.inf), "within is a number above 0"),
    ],
)
def test_arguments_that_do_not_fit(make: Callable[[], Lookout], said: str) -> None:
    with pytest.raises(ValueError, match=r"^[A-Z]") as error:
        make()
    assert said in str(error.value)


def test_a_copy_looks_at_another_job() -> None:
    lookouts = default_alarms()
    slow = list(job(2, 15, normal(0.0), slow={1: 1.5}))
    for _ in range(2):
        fresh = copy.deepcopy(lookouts)
        found = [alarm.kind for each in fresh for alarm in seen(each, iter(slow))]
        assert [kind for kind in found if kind != "disk"] == ["straggler"]


def test_alarms_look_quickly() -> None:
    """At the order of a millisecond a sample of 64 ranks; a hundred times that fails."""
    samples = list(job(64, 100, normal(0.1)))
    begun = time.perf_counter()
    for lookout in default_alarms():
        seen(lookout, iter(samples))
    assert time.perf_counter() - begun < 20


def test_alarms_need_no_tensorflow() -> None:
    code = (
        "import sys\n"
        "import hvdkit.monitoring.alarms.defaults, hvdkit.monitoring.alarms.web_hook\n"
        "assert not {'tensorflow', 'keras', 'numpy', 'horovod'} & sys.modules.keys()"
    )
    run_ranks("python", 1, ["-c", code], timeout=30).require_success()
