"""Alarms of a loss that jumps, and of a disk that fills."""

from __future__ import annotations

import math
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from made_up_jobs import (
    of_losses,
    seen,
)

from hvdkit.monitoring.alarms.full_disk import FullDisk
from hvdkit.monitoring.alarms.loss_jump import LossJump
from hvdkit.monitoring.sample import Alarm, RankSample, Sample

pytestmark = pytest.mark.quick


RANDOM = np.random.default_rng(3)
FALLING = 0.1 + 2.5 * np.exp(-np.arange(1000) / 100)


def running_means(losses: np.ndarray, epoch: int) -> np.ndarray:
    """What Keras logs: the mean since the epoch began."""
    counts = np.arange(1, epoch + 1)
    return (np.cumsum(losses.reshape(-1, epoch), axis=1) / counts).ravel()


@pytest.mark.parametrize(
    "losses",
    [
        FALLING,
        FALLING * RANDOM.normal(1, 0.1, 1000),
        FALLING * RANDOM.lognormal(0, 0.6, 1000),
        RANDOM.normal(0, 1, 1000),
        -FALLING[::-1],
        np.full(1000, 0.5),
        np.zeros(1000),
        running_means(RANDOM.normal(1, 0.08, 1000), 50),
        [*np.full(50, 1.0), 9.0, 9.0, *np.full(50, 1.0)],
        2 + 0.3 * np.sin(np.arange(1000) / 30),
    ],
)
def test_a_loss_that_does_not_jump(losses: np.ndarray) -> None:
    assert seen(LossJump(), of_losses(losses)) == []


def test_a_loss_that_jumps_is_told_of_once() -> None:
    losses = FALLING[:200] * RANDOM.normal(1, 0.05, 200)
    losses[120:] += 1.0
    (alarm,) = seen(LossJump(), of_losses(losses))
    assert (alarm.kind, alarm.step) == ("loss", 1230)
    assert "since step 1200" in alarm.text
    again = np.concatenate([losses, losses[120:] + 5])
    assert [alarm.step for alarm in seen(LossJump(), of_losses(again))] == [1230, 2030]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_told_of_at_once(bad: float) -> None:
    (alarm,) = seen(LossJump(), of_losses([1.0, bad, bad, 1.0, bad]))
    assert alarm.step == 20
    assert alarm.text.startswith(f"the loss is {bad:g} since step 10")
    (alarm,) = seen(LossJump(), of_losses([bad], steps=0))
    assert alarm.step == 10


def test_no_loss_no_alarm() -> None:
    assert LossJump().look(Sample(1, 1, 1, 0.0, {})) is None


# Disks


class Disk:
    """A disk of which somebody else takes space."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: float) -> None:
        self.free = free
        self.asked: list[Path] = []
        usage = namedtuple("usage", "total used free")

        def disk_usage(path: Path) -> object:
            self.asked.append(path)
            return usage(1 << 40, 0, int(self.free))

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)


GIB = 1 << 30


def minutes(disk: Disk, lookout: FullDisk, loses: list[float]) -> list[Alarm]:
    """Samples, one a minute, of a disk that loses so many GiB in each."""
    alarms = []
    host = [RankSample(0, "node0", {})]
    for minute, lost in enumerate(loses):
        disk.free -= lost * GIB
        sample = Sample(minute + 1, 1, 1, 1e9 + 60 * minute, {}, ranks=host)
        alarms += [alarm] if (alarm := lookout.look(sample)) else []
    return alarms


def test_a_real_disk_has_what_it_has(tmp_path: Path) -> None:
    left = shutil.disk_usage(tmp_path).free
    sample = Sample(5, 1, 5, 1e9, {}, ranks=[RankSample(0, "node0", {})])
    alarm = FullDisk(tmp_path / "not" / "there", free=10 * left).look(sample)
    assert alarm is not None
    assert (alarm.kind, alarm.host, alarm.step) == ("disk", "node0", 5)
    assert f"the disk of {tmp_path}/not/there on node0 has " in alarm.text
    assert FullDisk(tmp_path, free=left / 2).look(sample) is None


def test_a_disk_that_fills_is_found_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 500 * GIB)
    (alarm,) = minutes(disk, FullDisk(), [0.0] * 60 + [10.0] * 45)
    assert 60 < alarm.step < 90
    assert "so it will be full in " in alarm.text


def test_disks_that_are_not_in_need(monkeypatch: pytest.MonkeyPatch) -> None:
    slowly = [0.05] * 600
    assert minutes(Disk(monkeypatch, 500 * GIB), FullDisk(), slowly) == []
    checkpoints = ([20.0] + [0.0] * 29) * 4 + ([20.0, -20.0] + [0.0] * 28) * 20
    assert minutes(Disk(monkeypatch, 300 * GIB), FullDisk(), checkpoints) == []
    growing = [-1.0] * 100
    assert minutes(Disk(monkeypatch, 5 * GIB), FullDisk(), growing) == []


def test_a_nearly_full_disk_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With all paths that lie on it, also those that are yet to be made."""
    disk = Disk(monkeypatch, 1.5 * GIB)
    paths = [tmp_path, tmp_path / "a", tmp_path / "b"]
    (alarm,) = minutes(disk, FullDisk(paths), [0.0] * 100)
    assert alarm.step == 1
    named = f"the disk of {paths[0]}, {paths[1]} and {paths[2]} on node0 has 1.5 GiB left at step 1"
    assert f"{named}, less than 2 GiB" in alarm.text
    assert alarm.text.count("the disk of") == 1


def test_all_full_disks_are_told_of_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, 1.5 * GIB)
    unknown = tmp_path / ("a" * 300)
    (alarm,) = minutes(disk, FullDisk([tmp_path, unknown, "/proc"]), [0.0] * 100)
    told = alarm.text.split("; ")
    assert [each.split(" on ")[0] for each in sorted(told)] == sorted(
        f"the disk of {path}" for path in (tmp_path, unknown, "/proc")
    )


def test_a_disk_is_not_asked_with_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 500 * GIB)
    lookout = FullDisk("/")
    for i in range(100):
        lookout.look(Sample(i, 1, 1, 1e9 + i, {}))
    assert len(disk.asked) == 10


def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 500 * GIB)
    lookout = FullDisk("/")
    for i in range(100):
        disk.free -= 0.01 * GIB
        assert lookout.look(Sample(i, 1, 1, 1e9 + 60 * (i % 50), {})) is None


def test_a_disk_that_can_not_be_looked_at(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 300)
    (alarm,) = seen(FullDisk(long), (Sample(i, 1, 1, 1e9 + 60 * i, {}) for i in range(9)))
    assert "can't be looked at: [Errno 36] File name too long" in alarm.text


def test_what_is_made_later_may_lie_on_another_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, 500 * GIB)
    lookout = FullDisk(tmp_path / "later")
    assert minutes(disk, lookout, [0.0] * 20) == []
    (tmp_path / "later").mkdir()
    assert minutes(disk, lookout, [450.0, 0.0, 0.0]) == []
