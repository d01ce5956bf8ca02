"""TensorFlow's profiler and Horovod's timeline, for as long as a trace is made."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path

import tensorflow as tf

from hvdkit.engine import is_initialized, start_timeline, stop_timeline, topology
from hvdkit.engine.timeline import timeline_has_ended, why_no_timeline
from hvdkit.monitoring.trace.horovod_timeline import read_timeline
from hvdkit.monitoring.trace.profile import Profile, read_profile
from hvdkit.watch.slices import Slice


class Profiler:
    """TensorFlow's profiler, of which a process has one.

    Attributes:
        problem: why there is no profile, in words.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._folder: Path | None = None

    def start(self) -> None:
        """Start it, where nobody else has."""
        # TensorFlow makes it when it writes, so that a rank that is killed leaves none.
        self._folder = Path(tempfile.gettempdir(), f"hvdkit-trace-{uuid.uuid4().hex}")
        try:
            tf.profiler.experimental.start(str(self._folder))
        except tf.errors.AlreadyExistsError:
            self._give_up("somebody else uses TensorFlow's profiler")

    def stop(self) -> Profile:
        """Stop it, and read what it has written."""
        profile = Profile()
        if self._folder is not None:
            try:
                tf.profiler.experimental.stop()
                profile = read_profile(self._folder)
            except (OSError, tf.errors.OpError) as error:
                self._give_up(f"TensorFlow's profile could not be written: {error}")
        self._remove()
        return profile

    def abandon(self) -> None:
        """Stop it, and forget what it has found."""
        if self._folder is not None:
            try:
                tf.profiler.experimental.stop(save=False)
            except tf.errors.UnavailableError:  # somebody else has stopped it
                self.problem = "somebody else has stopped TensorFlow's profiler"
        self._remove()

    def _give_up(self, problem: str) -> None:
        self.problem = f"{problem}; forward and backward passes are not told apart"
        self._remove()

    def _remove(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class HorovodView:
    """Horovod's timeline, which rank 0 writes.

    Attributes:
        problem: why there is none, in words.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._folder: Path | None = None

    def start(self) -> None:
        """Start it on rank 0, where nobody else has; no other rank may run a collective."""
        if not is_initialized() or topology.size() == 1 or topology.rank() > 0:
            return
        reason = why_no_timeline()
        if reason is not None:
            self.problem = f"Horovod's own view is left out: {reason}"
            return
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="hvdkit-trace-"))
        except OSError as error:
            self.problem = f"Horovod's own view is left out: {error}"
            return
        start_timeline(str(self._folder / "timeline.json"))

    def stop(self) -> list[Slice]:
        """Stop it, and read what it has written."""
        found: list[Slice] = []
        folder, self._folder = self._folder, None
        if folder is not None:
            if is_initialized():
                stop_timeline()
            else:  # after an error, in a job that goes on with others
                timeline_has_ended()
            file = folder / "timeline.json"
            found = read_timeline(file.read_text()) if file.exists() else []
            shutil.rmtree(folder, ignore_errors=True)
        return found
