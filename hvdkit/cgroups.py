"""The control groups of this process (a container, a batch job): where Linux keeps their limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def group_folders(controller: str, root: Path = ROOT, membership: Path = MEMBERSHIP) -> set[Path]:
    """The folders of this process's control groups, and of those around them.

    A folder may hold the files of either version of control groups, or may not exist, as one that
    is outside of this container.

    Args:
        controller: what is limited: "cpu", "memory".
        root: where control groups are mounted.
        membership: the file that says which groups this process is in.
    """
    folders = {root, root / controller}
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            folders.update(_up(root, path))
        elif controller in controllers.split(","):
            folders.update(_up(root / controllers, path), _up(root / controller, path))
    return folders


def _up(base: Path, path: str) -> Iterator[Path]:
    """A group's folder and those of the groups around it."""
    folder = base / path.lstrip("/")
    yield folder
    while folder != base:
        folder = folder.parent
        yield folder
