"""The timeline, started and stopped by the script."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import tensorflow as tf

import hvdkit as hvd


def check_timeline() -> None:
    @tf.function  # eagerly, TensorFlow does not hand names to operations
    def named(value: tf.Tensor, turn: int) -> tf.Tensor:
        return hvd.allreduce(value, name=f"on_the_timeline_{turn}")

    folder = hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None)
    for turn in range(2):  # it can be started again
        file = Path(folder) / f"timeline{turn}.json"
        hvd.start_timeline(str(file), mark_cycles=turn == 1)
        named(tf.constant([float(hvd.rank())]), turn)
        hvd.allgather(hvd.rank())
        hvd.barrier()
        hvd.stop_timeline()
        hvd.barrier()
        if hvd.rank() == 0:
            events = json.loads(_text_when_complete(file))
            assert f"on_the_timeline_{turn}" in json.dumps(events)
            found = {event.get("name") for event in events}
            assert {"ALLREDUCE", "ALLGATHER"} <= found, found


def _text_when_complete(file: Path) -> str:
    """The text of a file that another thread is still closing."""
    for _ in range(50):
        text = file.read_text() if file.exists() else ""
        if text.rstrip().endswith("]"):
            return text
        time.sleep(0.1)
    return text
