"""One run of MLflow's, through its client; what can be sent later is an `AwayError`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException, RestException

from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sinks.background import AwayError

# What a server takes at once, and how long a value may be.
_PARAMETERS, _METRICS = 100, 1000
_LONGEST = 5000
_ANSWER_SECONDS = 2.0
# What a proxy says while the server behind it is away.
_GATEWAY_ERRORS = (502, 503, 504)
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")


def tracking_uri(given: str | None) -> str:
    """The URI that MLflow uses, for a given one or without."""
    return given if given is not None else str(mlflow.get_tracking_uri())


def without_password(uri: str) -> str:
    """A URI as it may be shown."""
    before, at, after = uri.rpartition("@")
    return f"{before.partition('://')[0]}://{after}" if at and "://" in before else uri


class MLflowRun:
    """A sink that talks to MLflow, and waits for it.

    Args:
        uri: of the tracking server or store.
        experiment: name of the experiment.
        run_name: name of the run, or None.

    Attributes:
        has_failed: whether the training ended by an error.
    """

    def __init__(self, uri: str, experiment: str, run_name: str | None) -> None:
        self._uri = uri
        self._experiment = experiment
        self._run_name = run_name
        self._client = MlflowClient(tracking_uri=uri)
        self._id: str | None = None
        self.has_failed = False

    def begin(self, job: Job) -> None:
        """Make the run, unless a call before this one has."""
        with self._reached():
            if self._id is None:
                tags = {"hvdkit.hosts": ", ".join(dict.fromkeys(job.hosts))[:_LONGEST]}
                if job.resumed_at:
                    tags["hvdkit.resumed_at"] = str(job.resumed_at)
                run = self._client.create_run(
                    self._experiment_id(), run_name=self._run_name, tags=tags
                )
                self._id = run.info.run_id
            named = {"ranks": job.ranks, **job.parameters}
            params = [Param(_name(key), str(value)[:_LONGEST]) for key, value in named.items()]
            for start in range(0, len(params), _PARAMETERS):
                self._client.log_batch(self._id, params=params[start : start + _PARAMETERS])

    def log(self, sample: Sample) -> None:
        """Send the figures of the job."""
        values = _metrics(sample)
        millis = int(sample.time * 1000)
        metrics = [Metric(_name(key), each, millis, sample.step) for key, each in values.items()]
        with self._reached():
            for start in range(0, len(metrics), _METRICS):
                self._client.log_batch(self._id, metrics=metrics[start : start + _METRICS])

    def alarm(self, alarm: Alarm) -> None:
        """Set a tag."""
        with self._reached():
            self._client.set_tag(
                self._id, f"hvdkit.alarm.{alarm.step}.{_name(alarm.kind)}", alarm.text[:_LONGEST]
            )

    def model(self, path: str) -> None:
        """Send the model."""
        with self._reached():
            self._client.log_artifact(self._id, path, "model")

    def end(self) -> None:
        """Say how the training ended."""
        with self._reached():
            self._client.set_terminated(self._id, "FAILED" if self.has_failed else "FINISHED")

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(self._experiment))
        except MlflowException:  # another job may have made it meanwhile
            found = self._client.get_experiment_by_name(self._experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """While inside, MLflow is talked to; that it is not there is an `AwayError`."""
        self._require_answer()
        try:
            yield
        except RestException as error:
            if _is_final(error.get_http_status_code()):
                raise
            raise AwayError(f"the server fails: {error}") from error
        except requests.HTTPError as error:  # of an artifact
            if error.response is not None and _is_final(error.response.status_code):
                raise
            raise AwayError(f"the server fails: {error}") from error
        except requests.RequestException as error:
            raise AwayError(f"the server is away: {error}") from error
        except MlflowException as error:
            if not self._is_server:
                raise
            raise AwayError(f"the server is away: {error}") from error

    @property
    def _is_server(self) -> bool:
        return urlsplit(self._uri).scheme in ("http", "https")

    def _require_answer(self) -> None:
        """Ask the server for any answer: the client itself would try for minutes."""
        if not self._is_server:
            return
        shown = without_password(self._uri)
        try:
            answer = requests.get(f"{self._uri.rstrip('/')}/health", timeout=_ANSWER_SECONDS)
        except requests.exceptions.SSLError:
            return  # it is there, and the client may know its certificate
        except (requests.ConnectionError, requests.Timeout) as error:
            raise AwayError(f"no answer from {shown}") from error
        if answer.status_code in _GATEWAY_ERRORS:
            raise AwayError(f"{shown} answers {answer.status_code} {answer.reason}")


def _metrics(sample: Sample) -> Mapping[str, float]:
    if not sample.steps:
        return {f"epoch/{name}": value for name, value in sample.values.items()}
    # In a store of files a name with a slash is in a folder, which can't be a file as well.
    sent = {f"sent/{name.replace('/', '.')}": value for name, value in sample.sent.items()}
    return {**sample.values, **sent}


def _name(text: str) -> str:
    """A name that MLflow takes."""
    return _NOT_IN_NAMES.sub("_", text)


def _is_final(status: int) -> bool:
    """Whether asking again does not help; the client has asked several times."""
    return status not in (408, 429, *_GATEWAY_ERRORS)
