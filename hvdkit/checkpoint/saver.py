"""Write checkpoints beside the training, with the agreement of all ranks.

A save goes through these steps: every rank copies its state (on the training thread); a thread of
each rank writes its file; at a later step boundary the ranks find that all files are written, and
tell each other their checksums; rank 0's thread writes the manifest and renames the folder.
"""

from __future__ import annotations

import enum
import os
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.files import Digest, write_atomically
from hvdkit.checkpoint.sharded_files import MeshPosition
from hvdkit.checkpoint.store import SHARED, Store, rank_file, shard_file
from hvdkit.engine import allgather_object, broadcast_object, raise_everywhere, topology
from hvdkit.errors import CheckpointError
from hvdkit.mesh.mesh import Sizes
from hvdkit.watch.slices import CHECKPOINTS, notes


@dataclass(frozen=True)
class Snapshot:
    """A copy of the state of the training at one step boundary.

    Attributes:
        shared: what all ranks have in common; None but on rank 0, which writes it.
        own: what belongs to this rank.
        about: for people; see `Manifest`.
        position: where this rank stands.
        shard: this rank's shard of a model that is sharded; None but in the first replica.
    """

    shared: Contents | None
    own: Contents
    about: dict[str, Any]
    position: MeshPosition
    shard: Contents | None = None


class Progress(enum.IntEnum):
    """How far a rank is with writing; the largest of all ranks decides what happens."""

    IDLE = 0
    WRITTEN = 1
    BUSY = 2
    FAILED = 3


class Saver:
    """Saves checkpoints into one folder. Every method but `progress` is called by all ranks.

    Args:
        directory: the folder, which all hosts share.
        keep: how many checkpoints to keep.

    Raises:
        CheckpointError: on every rank: the folder can't be written, or is not shared.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int) -> None:
        self.store = Store(directory)
        self._keep = keep
        self._pool = ThreadPoolExecutor(1, "hvdkit-checkpoint")
        self._writing: Future[dict[str, Digest]] | None = None
        self._finishing: Future[None] | None = None
        self._unconfirmed = False
        self._about: dict[str, Any] = {}
        self._mesh: Sizes = (1, 1, 1)
        self._run = str(broadcast_object(uuid.uuid4().hex[:12], name="hvdkit.checkpoint.run"))
        self._staging = self.store.staging(self._run)
        problem = None
        if topology.rank() == 0:
            try:
                self.store.prepare(self._run)
            except OSError as error:
                problem = f"checkpoints can't be written to {self.store.directory}: {error}"
        raise_everywhere(problem, CheckpointError)
        raise_everywhere(None if self._staging.is_dir() else self._not_shared(), CheckpointError)
        number = self.store.next_number() if topology.rank() == 0 else None
        self._number = int(broadcast_object(number, name="hvdkit.checkpoint.number"))

    def save(self, snapshot: Snapshot) -> None:
        """Start to write a checkpoint. One that is still being written is waited for.

        Raises:
            CheckpointError: on every rank: the one before could not be written.
        """
        self.finish()
        staged = self._staging / f"{self._number:08d}"
        self._about, self._mesh = snapshot.about, snapshot.position.sizes
        self._writing = self._pool.submit(_write, staged, snapshot)

    def progress(self) -> Progress:
        """How far this rank is, without waiting."""
        job = self._writing or self._finishing
        if job is None:
            return Progress.IDLE
        if not job.done():
            return Progress.BUSY
        if job.exception() is not None:
            return Progress.FAILED
        return Progress.WRITTEN if self._writing else Progress.IDLE

    def go_on(self, furthest_behind: Progress) -> None:
        """Do what is next, when the ranks have agreed on the largest of their `progress`.

        Raises:
            CheckpointError: on every rank: a checkpoint could not be written.
        """
        if furthest_behind == Progress.FAILED:
            self.finish()
        elif furthest_behind == Progress.WRITTEN and self._writing is not None:
            self._finish_files()

    def finish(self) -> None:
        """Wait until what was saved is whole and on the disk.

        Raises:
            CheckpointError: on every rank: it could not be written. Older ones are whole.
        """
        if self._writing is not None:
            self._finish_files()
        if self._unconfirmed:
            self._unconfirmed = False
            problem = None
            if self._finishing is not None:
                problem = self._problem(self._finishing)
                self._finishing = None
            raise_everywhere(problem, CheckpointError)

    def close(self) -> None:
        """Wait for what is being written, and end the thread.

        Raises:
            CheckpointError: as `finish`.
        """
        try:
            self.finish()
        finally:
            self._pool.shutdown()
            if topology.rank() == 0:
                self.store.close(self._run)

    def _finish_files(self) -> None:
        assert self._writing is not None
        job, self._writing = self._writing, None
        problem = self._problem(job)
        raise_everywhere(problem, CheckpointError)
        reports = allgather_object(job.result(), name="hvdkit.checkpoint.files")
        number, self._number = self._number, self._number + 1
        self._unconfirmed = True
        if topology.rank() == 0:
            files = {name: digest for report in reports for name, digest in report.items()}
            self._finishing = self._pool.submit(self._complete, number, files)

    def _complete(self, number: int, files: dict[str, Digest]) -> None:
        staged = self._staging / f"{number:08d}"
        self.store.finish(staged, number, self._mesh, self._about, files)
        self.store.prune(self._keep, self._run)

    def _problem(self, job: Future[Any]) -> str | None:
        error = job.exception()
        if error is None:
            return None
        return (
            f"the checkpoint in {self.store.directory} could not be written: "
            f"{type(error).__name__}: {error}. The older checkpoints are whole."
        )

    def _not_shared(self) -> str:
        return (
            f"{self.store.directory} is not the folder that rank 0 sees: checkpoints need a "
            "folder that all hosts share."
        )


def _write(staged: Path, snapshot: Snapshot) -> dict[str, Digest]:
    """Write this rank's files; runs beside the training."""
    with notes.times(CHECKPOINTS, "writing a checkpoint, beside the training"):
        return _written(staged, snapshot)


def _written(staged: Path, snapshot: Snapshot) -> dict[str, Digest]:
    staged.mkdir(exist_ok=True)
    files = {rank_file(topology.rank()): snapshot.own}
    if snapshot.shared is not None:
        files[SHARED] = snapshot.shared
    if snapshot.shard is not None:
        files[shard_file(snapshot.position.sizes, *snapshot.position.indices[1:])] = snapshot.shard
    return {name: write_atomically(staged / name, file.buffers()) for name, file in files.items()}
