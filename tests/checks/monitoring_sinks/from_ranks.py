"""Sinks of `hvd.callbacks.Monitor` on real ranks."""

from __future__ import annotations

import contextlib
import io
import socket

import pytest
from checks.callbacks.of_hvdkit import shared_folder
from checks.hearing import heard
from checks.monitoring_sinks.keras_tensorboard import end, files_in, fit

import hvdkit as hvd

M = hvd.monitoring


class Broken(M.Terminal):
    """A sink that fails."""

    def log(self, sample: M.Sample) -> None:
        raise OSError("the disk is gone")


def check_rank_0_writes_the_figures_of_all_and_says_what_fails() -> None:
    folder = shared_folder()
    printed = io.StringIO()
    sinks = [Broken(), M.JsonLines(folder), M.TensorBoard(folder), M.Terminal(printed)]
    with heard() as texts:
        history = fit(hvd.callbacks.Monitor(every=1, sinks=sinks, alarms=[]))
    said = (
        "hvdkit: Broken takes no more figures: the disk is gone. The training goes on without it."
    )
    assert texts == ([said] if hvd.rank() == 0 else [])
    job, *others = M.read_lines(folder)
    assert isinstance(job, M.Job)
    assert job.ranks == hvd.size()
    samples = [each for each in others if isinstance(each, M.Sample)]
    steps = [each for each in samples if each.steps]
    assert all([rank.rank for rank in each.ranks] == list(range(job.ranks)) for each in steps)
    assert all(rank.values["step_seconds"] > 0 for each in steps for rank in each.ranks)
    logs = [each.values for each in samples if not each.steps]
    assert [each["val_loss"] for each in logs] == pytest.approx(history["val_loss"])
    assert files_in(folder) == ["."]
    lines = printed.getvalue().splitlines()
    assert len(lines) == (len(samples) if hvd.rank() == 0 else 0)
    end(folder)


def check_a_port_that_is_taken_is_an_error_on_all_ranks() -> None:
    with contextlib.ExitStack() as stack:
        port = 0
        if hvd.rank() == 0:
            port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        port = hvd.broadcast_object(port)
        with pytest.raises(hvd.HvdkitError, match=f"can't listen on port {port} of 127.0.0.1"):
            fit(hvd.callbacks.Monitor(sinks=[M.Prometheus(port)]))
        hvd.barrier()
