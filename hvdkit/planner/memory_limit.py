"""How much memory this rank may use."""

from __future__ import annotations

from pathlib import Path

import psutil

from hvdkit.cgroups import MEMBERSHIP, ROOT, group_folders

# The files of a limit and of what is used, and the line of memory.stat with the files that are
# only cached, in version 2 and in version 1 of cgroups.
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def rank_memory_limit(local_ranks: int = 1) -> int:
    """Bytes that this rank may use: of its GPU, or else its share of what the host has left.

    Args:
        local_ranks: ranks on this host (`hvd.local_size()`), which share its memory.

    Returns:
        Of a GPU the memory that TensorFlow takes of it. Without one the host's available memory,
        or what the process's control group (a container, a batch job) has left, if that is less,
        divided by the ranks.
    """
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return _gpu_memory()
    left = [psutil.virtual_memory().available, *_left_in_cgroups()]
    return min(left) // local_ranks


def _gpu_memory() -> int:
    from tensorflow.python.client import device_lib

    devices = device_lib.list_local_devices()
    return min(int(d.memory_limit) for d in devices if d.device_type == "GPU")


def _left_in_cgroups(membership: Path = MEMBERSHIP, root: Path = ROOT) -> list[int]:
    """What is left in each control group of this process that has a limit."""
    folders = group_folders("memory", root, membership)
    found = [_left(folder, *files) for folder in folders for files in (_VERSION_2, _VERSION_1)]
    return [left for left in found if left is not None]


def _left(folder: Path, limit_file: str, usage_file: str, cached_line: str) -> int | None:
    try:
        limit = (folder / limit_file).read_text().strip()
        used = int((folder / usage_file).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # the group sets no limit, or is outside of this container
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - used + int(stat.get(cached_line, 0)))
