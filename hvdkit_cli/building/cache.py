"""The cache of built wheels, and the key under which each is kept."""

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

_FACTS = "facts.json"


def cache_root(env: Mapping[str, str]) -> Path:
    """Return the cache's folder: HVDKIT_CACHE, else below XDG_CACHE_HOME, else below ~/.cache."""
    if chosen := env.get("HVDKIT_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = env.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hvdkit"


def cache_key(facts: Mapping[str, str]) -> str:
    """Turn what decides a wheel's contents into a key of 16 hexadecimal digits."""
    text = json.dumps(dict(facts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(folder: Path) -> str:
    """Return one SHA-256 over the relative paths and contents of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file_hash(file)}\0".encode())
    return digest.hexdigest()


class WheelCache:
    """Wheels by key, each in a folder of its own with the facts that made the key.

    Args:
        root: The cache's folder; made when something is stored.
    """

    def __init__(self, root: Path) -> None:
        self._wheels = root / "wheels"

    def find(self, key: str) -> Path | None:
        """Return the wheel kept under `key`, or None if there is none or it is damaged."""
        folder = self._wheels / key
        try:
            facts = json.loads((folder / _FACTS).read_text())
            wheel = folder / facts["wheel"]
            intact = zipfile.is_zipfile(wheel) and file_hash(wheel) == facts["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return wheel if intact else None

    def store(self, key: str, wheel: Path, facts: Mapping[str, str]) -> Path:
        """Keep a wheel. A reader never sees half of it, nor do two writers mix theirs.

        Args:
            key: The key to keep it under.
            wheel: The wheel's file, which is copied.
            facts: What made the key, kept beside it for people to read.

        Returns:
            The copy in the cache.
        """
        self._wheels.mkdir(parents=True, exist_ok=True)
        entry = {"wheel": wheel.name, "sha256": file_hash(wheel), "facts": dict(facts)}
        staging = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=self._wheels))
        try:
            shutil.copy2(wheel, staging / wheel.name)
            (staging / _FACTS).write_text(json.dumps(entry, indent=2) + "\n")
            self.drop(key)
            try:
                staging.rename(self._wheels / key)
            except OSError:
                if self.find(key) is None:
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return self._wheels / key / wheel.name

    def drop(self, key: str) -> None:
        """Forget the wheel kept under `key`, if there is one."""
        folder = self._wheels / key
        if folder.exists():
            doomed = self._wheels / f".{key}-dropped-{os.getpid()}"
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
