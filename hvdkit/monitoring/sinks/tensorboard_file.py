"""A file of events as TensorBoard reads them, written at once."""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.text.metadata import PLUGIN_NAME as TEXT
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from hvdkit.monitoring.sample import Alarm, Job, Sample

# Of more ranks nobody looks at a scalar each, and writing them takes longer than it may.
_RANKS_SHOWN = 64

_numbers = itertools.count()


class EventFile:
    """A file of its own; TensorBoard reads the files of a folder in the order of their names.

    Args:
        folder: where it is made.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, folder: Path) -> None:
        made = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        # TensorBoard's own writer hands over to a thread, which tells nobody of a full disk.
        self._file = (folder / f"events.out.tfevents.{made}.hvdkit").open("xb")
        self._records = RecordWriter(self._file)

    def begin(self, job: Job) -> None:
        """Write what the training was started with."""
        self._write(Event(file_version="brain.Event:2"))
        if job.resumed_at:  # what came after this step before the job was started again is void
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=job.resumed_at + 1, session_log=start))
        named = {"ranks": job.ranks, "hosts": len(set(job.hosts)), **job.parameters}
        table = "\n".join(f"| {key} | {value} |" for key, value in named.items())
        self._write_text("job", f"| | |\n|---|---|\n{table}", job.resumed_at)
        self._file.flush()

    def log(self, sample: Sample) -> None:
        """Write a sample."""
        group = "job" if sample.steps else "epoch"
        scalars = {f"{group}/{name}": value for name, value in sample.values.items()}
        for rank in sample.ranks if len(sample.ranks) <= _RANKS_SHOWN else ():
            of_rank = f"rank {rank.rank}"
            scalars |= {f"{of_rank}/{name}": value for name, value in rank.values.items()}
        scalars |= {f"sent bytes/{name}": value for name, value in sample.sent.items()}
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(step=sample.step, summary=Summary(value=values)), sample.time)
        self._file.flush()

    def alarm(self, alarm: Alarm) -> None:
        """Write an alarm."""
        self._write_text(f"alarms/{alarm.kind}", alarm.text, alarm.step)
        self._file.flush()

    def end(self) -> None:
        """Close it."""
        self._file.close()

    def _write_text(self, tag: str, text: str, step: int) -> None:
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=TEXT))
        tensor = make_tensor_proto(np.array([text], dtype=object))
        value = Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._write(Event(step=step, summary=Summary(value=[value])))

    def _write(self, event: Event, at: float | None = None) -> None:
        event.wall_time = time.time() if at is None else at
        self._records.write(event.SerializeToString())
