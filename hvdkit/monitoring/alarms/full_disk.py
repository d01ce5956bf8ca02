"""A disk that fills."""

from __future__ import annotations

import math
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from hvdkit.monitoring.alarms.base import Lasting
from hvdkit.monitoring.sample import Alarm, Sample

_GIB = 1 << 30
# Free space changes slowly, and asking a file server takes milliseconds.
_SECONDS_BETWEEN_LOOKS = 10.0
# What was lost in some time is expected to be lost again as often, and no more often: a checkpoint
# is written in seconds, and is not the rate at which a disk fills.
_TIMES_AGAIN = 4
# Looks that a disk must be well in before it is told of again.
_WELL = 30


class FullDisk:
    """A disk that fills: "disk".

    It is told of a disk that has less than `free` left, or that will be full within `within`
    seconds if it goes on losing space as in the last quarter of that time. From a shorter time, at
    the start, no more than four times as much is foretold, so that one checkpoint is not taken for
    a rate, unless only a few more of them fit.

    It looks on rank 0's host, every ten seconds at most; of a path that does not exist yet it
    looks at the nearest folder that does. One alarm tells of all disks that fill at the same time,
    of each once, however many of the paths lie on it. Quotas, and the number of files that a disk
    can hold, are not seen.

    Args:
        paths: what lies on the disks, such as the folders of checkpoints and logs.
        free: bytes that should stay free.
        within: seconds for which space should last.

    Raises:
        ValueError: no path at all, or a number that is not positive.

    Example:
        >>> hvd.callbacks.Monitor(alarms=[hvd.monitoring.FullDisk(["runs", "/scratch"])])
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = ".",
        free: float = 2 * _GIB,
        within: float = 3600.0,
    ) -> None:
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        if not given:
            raise ValueError("FullDisk(paths=[]): name a path on each disk to look at.")
        for name, value in (("free", free), ("within", within)):
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"FullDisk({name}={value!r}): {name} is a number above 0.")
        self._free, self._within = free, within
        # A script may change its folder later.
        self._paths = [Path(path).absolute() for path in given]
        self._disks: dict[int, _Disk] = {}
        self._unknown = {path: Lasting(1, 1, well=_WELL) for path in self._paths}
        self._looked = -math.inf

    def look(self, sample: Sample) -> Alarm | None:
        """Look at the disks; one that can't be looked at is told of, too."""
        if 0 <= sample.time - self._looked < _SECONDS_BETWEEN_LOOKS:
            return None
        self._looked = sample.time
        host = next((rank.host for rank in sample.ranks if rank.rank == 0), None)
        on_host = f" on {host}" if host else ""
        told = [
            f"the disk of {_listed(paths)}{on_host} {text}" for paths, text in self._found(sample)
        ]
        return Alarm("disk", f"{'; '.join(told)}.", sample.step, host=host) if told else None

    def _found(self, sample: Sample) -> Iterator[tuple[list[Path], str]]:
        """What is to be said of disks, with the paths that lie on each."""
        paths_on: dict[int, list[Path]] = {}
        free_of: dict[int, int] = {}
        for path in self._paths:
            try:
                # What has been made since the last look may lie on another disk than its folder.
                folder = _existing(path)
                device, free = folder.stat().st_dev, shutil.disk_usage(folder).free
            except OSError as error:
                if self._unknown[path].begins(sample, True):
                    yield [path], f"can't be looked at: {error}"
                continue
            self._unknown[path].begins(sample, False)
            paths_on.setdefault(device, []).append(path)
            free_of[device] = free
        for device, paths in paths_on.items():
            disk = self._disks.setdefault(device, _Disk(self._within))
            text = disk.look(sample, free_of[device], self._free)
            if text is not None:
                yield paths, text


class _Disk:
    """What was free on one disk, and when.

    Args:
        within: seconds for which space should last.
    """

    def __init__(self, within: float) -> None:
        self._within, self._remembered = within, within / _TIMES_AGAIN
        self._looks: deque[tuple[float, int]] = deque()
        self._filling = Lasting(1, 1, well=_WELL)

    def look(self, sample: Sample, free: int, least: float) -> str | None:
        """What is to be said of it.

        Args:
            sample: the sample.
            free: bytes that are free now.
            least: bytes that should stay free.
        """
        if self._looks and self._looks[-1][0] > sample.time:  # a clock that was set back
            self._looks.clear()
        self._looks.append((sample.time, free))
        while len(self._looks) > 2 and self._looks[1][0] <= sample.time - self._remembered:
            self._looks.popleft()
        then, before = self._looks[0]
        seconds, lost = sample.time - then, before - free
        again = min(_TIMES_AGAIN * seconds, self._within)
        fills = lost > 0 and seconds * free <= again * lost
        if not self._filling.begins(sample, free < least or fills):
            return None
        advice = "make room, or keep fewer checkpoints and logs"
        if free < least:
            left = f"has {_size(free)} left at step {sample.step}"
            return f"{left}, less than {_size(least)}: {advice}"
        return (
            f"has lost {_size(lost)} in {_minutes(seconds)} and has {_size(free)} left at step "
            f"{sample.step}, so it will be full in {_minutes(seconds * free / lost)}: {advice}"
        )


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _listed(paths: Sequence[Path]) -> str:
    names = [str(path) for path in paths]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.3g} minutes"


def _size(number: float) -> str:
    return f"{number / _GIB:.3g} GiB"
