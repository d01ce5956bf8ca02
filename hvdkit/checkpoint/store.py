"""The folder of checkpoints: which there are, which are whole, and which to keep.

    DIRECTORY/checkpoint-00000007/manifest.json    lengths and checksums; written last
                                  shared.bin       what all ranks have in common
                                  part-0-1.bin     of a sharded model: stage 0, tensor rank 1
                                  rank-0.bin       what belongs to rank 0, and so on
    DIRECTORY/.unfinished-RUN/00000008/            a checkpoint that is being written

A checkpoint gets its name when all of it is on the disk, so a job that is killed while it writes
leaves an unfinished one behind, which the next start removes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvdkit.checkpoint.arrays import Contents, parse
from hvdkit.checkpoint.files import Digest, digest_of, sync_folder, write_atomically
from hvdkit.errors import CheckpointError

if TYPE_CHECKING:
    from hvdkit.mesh.mesh import Sizes

FORMAT = 1
SHARED = "shared.bin"
MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d{8})")
_UNFINISHED = ".unfinished-"
_BROKEN = "broken-"


def rank_file(rank: int) -> str:
    """The name of the file that belongs to a rank."""
    return f"rank-{rank}.bin"


def shard_file(mesh: Sizes, stage: int, tensor_index: int) -> str:
    """The name of the file with a shard of the model: the shared one if it is unsharded."""
    return SHARED if mesh[1:] == (1, 1) else f"part-{stage}-{tensor_index}.bin"


@dataclass(frozen=True)
class Manifest:
    """What a whole checkpoint consists of.

    Attributes:
        path: its folder.
        mesh: how the ranks that wrote it were laid out: data, pipeline, tensor.
        about: what it is a checkpoint of, for people: epoch, batch, and so on.
        files: name to length and checksum.
    """

    path: Path
    mesh: Sizes
    about: dict[str, Any]
    files: dict[str, Digest]

    @property
    def ranks(self) -> int:
        """How many ranks wrote it."""
        return math.prod(self.mesh)

    def read(self, name: str) -> Contents:
        """Read one file, and check it.

        Raises:
            CheckpointError: it can't be read, or it is not what was written.
        """
        path = self.path / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error}") from error
        if Digest(len(data), hashlib.sha256(data).hexdigest()) != self.files[name]:
            raise CheckpointError(f"{path} does not have the checksum that was written.")
        return parse(data, str(path))


def verify(path: str | os.PathLike[str]) -> Manifest:
    """Check that a checkpoint is whole: every file there, with its length and checksum.

    One process can call it, without `hvd.init()`.

    Args:
        path: the folder of one checkpoint.

    Returns:
        What it consists of.

    Raises:
        CheckpointError: it is not whole; the message names the file.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    for name, digest in manifest.files.items():
        try:
            found = digest_of(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name} can't be read: {error}") from error
        if found.bytes != digest.bytes:
            raise CheckpointError(
                f"{folder / name} has {found.bytes} bytes, not {digest.bytes}: it was cut off."
            )
        if found != digest:
            raise CheckpointError(f"{folder / name} does not have the checksum that was written.")
    return manifest


def _manifest(folder: Path) -> Manifest:
    try:
        written = json.loads((folder / MANIFEST).read_bytes())
        body = written["checkpoint"]
        if written["sha256"] != _checksum(body):
            raise ValueError("its checksum is not that of its contents")
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']} is not known to this version of hvdkit")
        data, pipeline, tensor = body["mesh"]
        mesh = (int(data), int(pipeline), int(tensor))
        files = {name: Digest(**body["files"][name]) for name in _file_names(mesh)}
        return Manifest(folder, mesh, body["about"], files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST} can't be read: {type(error).__name__}: {error}"
        ) from error


def _file_names(mesh: Sizes) -> set[str]:
    _, pipeline, tensor = mesh
    shards = {shard_file(mesh, p, t) for p in range(pipeline) for t in range(tensor)}
    return {SHARED} | shards | {rank_file(rank) for rank in range(math.prod(mesh))}


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class Store:
    """The folder of checkpoints, as one process sees it.

    Args:
        directory: the folder; it may not exist yet.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def checkpoints(self) -> list[Path]:
        """The finished checkpoints, the oldest first, whole or not."""
        if not self.directory.exists():
            return []
        found = [path for path in self.directory.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: path.name)

    def newest_whole(self) -> tuple[Manifest | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with those after it."""
        problems: list[str] = []
        for path in reversed(self.checkpoints()):
            try:
                return verify(path), problems
            except CheckpointError as error:
                problems.append(str(error))
        return None, problems

    def staging(self, run: str) -> Path:
        """The folder in which a run writes what is not finished."""
        return self.directory / f"{_UNFINISHED}{run}"

    def prepare(self, run: str) -> None:
        """Make the folders, and remove what runs before this one did not finish."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover)
        self.staging(run).mkdir()

    def next_number(self) -> int:
        """A number above those of all checkpoints, so that the newest is the last in order."""
        numbers = [
            int(match[1])
            for path in (self.directory.iterdir() if self.directory.exists() else [])
            if (match := _NAME.search(path.name))
        ]
        return max(numbers, default=0) + 1

    def set_aside(self, newer_than: Path | None) -> None:
        """Rename the checkpoints after a whole one: they are broken, and must not count."""
        for path in self.checkpoints():
            if newer_than is None or path.name > newer_than.name:
                os.rename(path, path.with_name(_BROKEN + path.name))

    def finish(
        self,
        staged: Path,
        number: int,
        mesh: Sizes,
        about: dict[str, Any],
        files: dict[str, Digest],
    ) -> Path:
        """Give a checkpoint its manifest and then its name.

        Args:
            staged: the folder with the files of all ranks.
            number: the number of the checkpoint.
            mesh: see `Manifest`.
            about: see `Manifest`.
            files: see `Manifest`.

        Returns:
            Its folder.
        """
        body = {
            "format": FORMAT,
            "mesh": mesh,
            "about": about,
            "files": {name: digest.as_json() for name, digest in files.items()},
        }
        manifest = {"checkpoint": body, "sha256": _checksum(body)}
        write_atomically(staged / MANIFEST, [json.dumps(manifest, indent=1).encode()])
        path = self.directory / f"checkpoint-{number:08d}"
        os.rename(staged, path)
        sync_folder(self.directory)
        return path

    def prune(self, keep: int, run: str) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for path in self.checkpoints()[:-keep]:
            # Out of the way in one step, so that nobody finds a half of it.
            doomed = self.staging(run) / f"removed-{path.name}"
            os.rename(path, doomed)
            shutil.rmtree(doomed)

    def close(self, run: str) -> None:
        """Remove the run's folder for unfinished checkpoints."""
        shutil.rmtree(self.staging(run), ignore_errors=True)
