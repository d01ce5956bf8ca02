"""What can't be traced is an error on every rank, before the first step."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest
from checks.hearing import heard
from checks.marks import long
from checks.trace.files import shared_folder
from checks.trace.fits import fit, model_of_all

import hvdkit as hvd


class Counts(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.steps += 1


def check_a_folder_that_can_not_be_written() -> None:
    counts = Counts()
    with shared_folder() as folder:
        if hvd.rank() == 0:
            (folder / "file").write_text("no folder")
        hvd.barrier()
        with pytest.raises(hvd.HvdkitError, match=r"on rank 0 .*hvd.trace can't write to .*file"):
            fit(model_of_all(), hvd.trace(folder / "file", steps=(1, 2)), counts)
    assert counts.steps == 0


def check_ranks_that_were_given_different_traces() -> None:
    counts = Counts()
    with shared_folder() as folder:
        with pytest.raises(hvd.RankMismatchError, match=r"the arguments of hvd\.trace differ"):
            fit(model_of_all(), hvd.trace(folder, steps=(1, 2 + hvd.rank())), counts)
        given = [hvd.trace(folder, steps=(1, 2))] if hvd.rank() == 0 else []
        with pytest.raises(hvd.RankMismatchError, match=r"hvd.trace is given to fit on rank 0, "):
            fit(model_of_all(), *given, counts)
    assert counts.steps == 0


class Removes(keras.callbacks.Callback):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if batch == 1 and hvd.rank() == 0:
            self.folder.rmdir()


@long
def check_a_trace_that_can_not_be_written_in_the_end_is_no_error() -> None:
    counts = Counts()
    with shared_folder() as folder, heard() as texts:
        traced = hvd.trace(folder / "away", steps=(1, 3))
        fit(model_of_all(), Removes(folder / "away"), traced, counts)
    assert traced.path is None
    assert counts.steps == 6
    said = [text for text in texts if "the trace could not be written to" in text]
    assert len(said) == (hvd.rank() == 0)
