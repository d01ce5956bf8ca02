"""Packages that single tests need, from the package registry into pytest's cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def installed(cache: Path, wanted: Sequence[str]) -> Path:
    """A folder with packages, without what they require; installed once for each list.

    Args:
        cache: where the folder is made.
        wanted: requirements, each with its exact version.
    """
    key = f"{sys.version_info[:2]} {' '.join(wanted)}".encode()
    folder = cache / hashlib.sha256(key).hexdigest()[:12]
    if not folder.exists():
        unfinished = folder.with_suffix(f".{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        done = subprocess.run(
            [*pip, "--no-deps", "--target", str(unfinished), *wanted],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{wanted} can't be installed:\n{done.stdout}{done.stderr}"
        unfinished.rename(folder)
    return folder


def listed(requirements: Path) -> list[str]:
    """What a file of requirements lists."""
    lines = requirements.read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
