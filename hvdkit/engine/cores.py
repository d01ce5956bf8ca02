"""How many cores this process may use: CPU affinity and cgroup quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

from hvdkit.cgroups import MEMBERSHIP, ROOT, group_folders


def affinity() -> frozenset[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cgroup_quota(root: Path = ROOT, own: Path = MEMBERSHIP) -> float | None:
    """The cgroup's CPU limit in cores, or None where there is none.

    Reads cgroup v2's `cpu.max` and v1's `cpu.cfs_quota_us`, of this process's group and of the
    groups above it (the tightest counts).
    """
    folders = group_folders("cpu", root, own)
    limits = [_v2_limit(folder / "cpu.max") or _v1_limit(folder) for folder in folders]
    return min((limit for limit in limits if limit is not None), default=None)


def _v2_limit(file: Path) -> float | None:
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _v1_limit(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None


def threads_per_rank(
    own: frozenset[int],
    neighbours: list[frozenset[int]],
    quota: float | None,
) -> int:
    """Threads for one rank, so that the ranks of a host fill its cores once.

    Args:
        own: the cores this rank may use.
        neighbours: the cores of each rank on this host, this one included.
        quota: the cgroup's limit in cores, shared by the ranks of the host.

    Returns:
        At least 1. Ranks with the same cores share them evenly; the quota is shared by all.
    """
    sharing = max(1, sum(1 for cores in neighbours if cores == own))
    threads = len(own) / sharing
    if quota is not None:
        threads = min(threads, quota / max(1, len(neighbours)))
    return max(1, math.floor(threads))
