"""The meters in processors (RAPL, "running average power limit", of Intel and AMD)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = "/sys/class/powercap"

# Zones whose energies add up. A package holds its "core" and "uncore" zones, and "psys", the whole
# board, holds packages.
_PACKAGE = re.compile(r"package-\d+(-die-\d+)?")
_DRAM = "dram"
# More than any processor draws: what goes round faster than that can't have been missed.
_MOST_WATTS = 1000.0


@dataclass
class _Zone:
    """A counter of microjoules, which begins again at 0 when it has reached `turn`."""

    file: Path
    turn: int
    last: int

    def joules(self, seconds: float) -> float | None:
        now = int(self.file.read_text())
        last, self.last = self.last, now
        if seconds * _MOST_WATTS * 1e6 >= self.turn:
            return None  # it may have gone round more than once
        return (now - last if now >= last else now + self.turn - last) / 1e6


class CpuMeter:
    """Counts the energy of a host's processors, and of its memory where they tell.

    Args:
        zones: counters.
        counts: what they count the energy of, in words.

    Attributes:
        counts: what it counts the energy of, in words.
    """

    def __init__(self, zones: Sequence[_Zone], counts: str) -> None:
        self._zones = list(zones)
        self.counts = counts

    @classmethod
    def open(cls, powercap: str = POWERCAP) -> CpuMeter | None:
        """The meter of this host.

        Args:
            powercap: the folder in which Linux shows such meters.

        Returns:
            None where there is none, or where not all of it can be read: since 2020 Linux lets
            only root read it (CVE-2020-8694), if nobody has changed that.
        """
        try:
            found = _zones(Path(powercap))
            packages = {package for package, kind in found if kind != _DRAM}
            memory = {package for package, kind in found if kind == _DRAM}
            # The memory of some processors would be taken for that of all.
            kinds = {"package", _DRAM} if memory == packages else {"package"}
            zones = [_opened(folder) for (_, kind), folder in found.items() if kind in kinds]
        except (OSError, ValueError):
            return None
        counts = "processors and memory" if _DRAM in kinds else "processors"
        return cls(zones, counts) if zones else None

    def joules(self, seconds: float) -> float | None:
        """The energy since the call before, or since it was opened.

        Args:
            seconds: how long that is.

        Returns:
            None where a counter may have gone round more than once, can't be read any more, or
            where nothing is counted, as on some virtual machines.
        """
        try:
            readings = [zone.joules(seconds) for zone in self._zones]
        except (OSError, ValueError):
            return None
        told = [joules for joules in readings if joules is not None]
        return sum(told) or None if len(told) == len(readings) else None


def _zones(powercap: Path) -> dict[tuple[str, str], Path]:
    """The folders of zones whose energies add up, by package and kind, each once.

    A package may be shown by several drivers (`intel-rapl:0` and `intel-rapl-mmio:0`).
    """
    found: dict[tuple[str, str], Path] = {}
    folders = [path for path in sorted(powercap.iterdir()) if (path / "name").exists()]
    names = {path.name: (path / "name").read_text().strip() for path in folders}
    # `intel-rapl:0:2` is in `intel-rapl:0`.
    for folder in sorted(folders, key=lambda path: (len(path.name.partition(":")[0]), path.name)):
        kind = names[folder.name]
        if _PACKAGE.fullmatch(kind):
            found.setdefault((kind, "package"), folder)
        elif kind == _DRAM:
            package = names.get(folder.name.rpartition(":")[0], "")
            if _PACKAGE.fullmatch(package):
                found.setdefault((package, _DRAM), folder)
    return found


def _opened(folder: Path) -> _Zone:
    file = folder / "energy_uj"
    turn = int((folder / "max_energy_range_uj").read_text())
    return _Zone(file, turn, int(file.read_text()))
