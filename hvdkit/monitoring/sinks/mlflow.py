"""Figures in a run of MLflow's."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from hvdkit.errors import HvdkitError
from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sinks.background import Background
from hvdkit.monitoring.sinks.installed import require

# What a link to a server carries at least; a model that takes longer to send is given up.
_BYTES_PER_SECOND = 2e6
_ON_THIS_MACHINE = ("", "file", "sqlite")


class MLflow:
    """A run for each `fit`: parameters, metrics, alarms as tags, and the model if it is wanted.

    Metrics are the figures of the job, under their names; those of the end of an epoch are
    "epoch/loss" and so on, those of each collective "sent/...". Their steps are those of the
    training. A job that is started again makes a run of its own, whose tag "hvdkit.resumed_at" has
    the steps that were done before.

    A server is talked to in a thread. While it is away the training goes on, and up to 1000 samples
    are kept for it; the end of `fit` waits for it for 10 seconds.

    Needs `pip install 'hvdkit[mlflow]'`, which is MLflow's client.

    Args:
        uri: of the tracking server, as MLflow has it; default: MLflow's own (MLFLOW_TRACKING_URI).
        experiment: the name of the experiment, which is made if there is none.
        run_name: the name of the run; default: MLflow makes one up.
        model: keep the trained model as the artifact "model/model.keras".

    Raises:
        InstallationError: MLflow is missing.
        HvdkitError: on every rank, before the first step: MLflow knows no such URI, or can't use
            the store on this machine.

    Example:
        >>> server = hvd.monitoring.MLflow("http://mlflow:5000", experiment="digits", model=True)
        >>> monitor = hvd.callbacks.Monitor(sinks=[hvd.monitoring.Terminal(), server])
    """

    model: Callable[[str], None]  # of those that take the model only

    def __init__(
        self,
        uri: str | None = None,
        experiment: str = "Default",
        run_name: str | None = None,
        *,
        model: bool = False,
    ) -> None:
        require("mlflow", "mlflow", "MLflow")
        self._uri = uri
        self._experiment = experiment
        self._run_name = run_name
        self._sender: Background | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._model_bytes = 0
        self._before: BaseException | None = None
        if model:
            self.model = self._take_model

    def begin(self, job: Job) -> None:
        """Make the run."""
        from hvdkit.monitoring.sinks.mlflow_run import MLflowRun, tracking_uri, without_password

        uri = tracking_uri(self._uri)
        self._before = sys.exception()
        try:
            self._run = MLflowRun(uri, self._experiment, self._run_name)
            if urlsplit(uri).scheme in _ON_THIS_MACHINE:
                self._run.begin(job)
        except Exception as error:
            raise HvdkitError(
                f"hvd.monitoring.MLflow can't use {without_password(uri)}: {error}"
            ) from error
        self._sender = Background(self._run, "MLflow")
        self._sender.begin(job)

    def log(self, sample: Sample) -> None:
        """Send metrics."""
        self._going().log(sample)

    def alarm(self, alarm: Alarm) -> None:
        """Set a tag."""
        self._going().alarm(alarm)

    def end(self) -> None:
        """Wait until all is sent, as long as the server answers."""
        if self._sender is None:
            return
        error = sys.exception()
        self._run.has_failed = error is not None and error is not self._before
        try:
            self._sender.end(more_seconds=self._model_bytes / _BYTES_PER_SECOND)
        finally:
            self._sender, self._model_bytes = None, 0
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def _take_model(self, path: str) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        copy = shutil.copy(path, self._folder.name)
        self._model_bytes = Path(copy).stat().st_size
        run = self._run
        self._going().call(lambda: run.model(copy))

    def _going(self) -> Background:
        assert self._sender is not None, "begin comes first"
        return self._sender
