"""TensorBoard, Prometheus and MLflow: what they find of a job's figures."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from checks.hearing import heard
from launch import ROOT, environment
from sink_samples import ALARM, JOB, NOW, Kept, epoch_sample, run, sample

import hvdkit as hvd
from hvdkit.monitoring.sample import Job
from hvdkit.monitoring.sinks import background
from hvdkit.monitoring.sinks.all_sinks import Sinks

pytestmark = pytest.mark.quick
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def events_in(folder: Path) -> Any:
    """What TensorBoard reads in a folder; it does so without TensorFlow, too, and starts sooner."""
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_reads_scalars_and_texts(tmp_path: Path) -> None:
    run(hvd.monitoring.TensorBoard(tmp_path))
    events = events_in(tmp_path)
    losses = events.Scalars("job/loss")
    assert [each.step for each in losses] == [10, 20]
    assert [each.wall_time for each in losses] == [NOW, NOW]
    assert math.isnan(losses[0].value)
    assert losses[1].value == 0.5
    assert events.Scalars("epoch/val_loss")[0].value == 0.75
    waits = [events.Scalars(f"rank {rank}/waiting_for_data_seconds")[1].value for rank in (0, 1)]
    assert waits == pytest.approx([0.01, 0.05])
    assert events.Scalars("sent bytes/sum 'dense/kernel'")[0].value == 4096
    job, alarm = (events.Tensors(tag)[0].tensor_proto for tag in ("job", "alarms/straggler"))
    assert alarm.string_val[0].decode() == ALARM.text
    assert b"| optimizer | Adam |" in job.string_val[0]
    assert events.SummaryMetadata("job").plugin_data.plugin_name == "text"


def test_tensorboard_forgets_what_a_restarted_job_makes_again(tmp_path: Path) -> None:
    sink = hvd.monitoring.TensorBoard(tmp_path)
    sink.begin(JOB)
    for step in (10, 20, 30):
        sink.log(sample(step, loss=1.0))
    again = hvd.monitoring.TensorBoard(tmp_path)  # that job was killed
    again.begin(Job(2, ["one", "two"], {}, resumed_at=10))
    again.log(sample(20, loss=2.0))
    losses = events_in(tmp_path).Scalars("job/loss")
    assert [(each.step, each.value) for each in losses] == [(10, 1.0), (20, 2.0)]


def scraped(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What Prometheus would find, by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(url, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (each.name, frozenset(each.labels.items())): each.value
        for family in families
        for each in family.samples
    }


def test_prometheus_finds_the_last_figures_on_loopback_only() -> None:
    sink = hvd.monitoring.Prometheus(port=0)
    assert sink.url is None
    sink.begin(JOB)
    url = sink.url
    assert url is not None
    assert ("hvdkit_ranks", frozenset()) in scraped(url)
    sink.log(sample(10, loss=math.nan))
    sink.log(sample(20))
    sink.log(epoch_sample(20))
    sink.alarm(ALARM)
    found = scraped(url)

    def value(metric: str, **labels: str) -> float:
        return found[metric, frozenset(labels.items())]

    assert value("hvdkit_steps_total") == 20
    assert value("hvdkit_rows_per_second") == 300
    assert value("hvdkit_model_flops_ratio") == 0.25
    assert value("hvdkit_step_energy_joules") == 2
    assert value("hvdkit_log", name="loss") == 0.5
    assert value("hvdkit_epoch_log", name="val_loss") == 0.75
    assert value("hvdkit_rank_waiting_for_data_seconds", rank="1", host="two") == 0.05
    assert value("hvdkit_rank_power_watts", rank="0", host="one") == 45
    assert value("hvdkit_alarms_total", kind="straggler") == 1
    assert value("hvdkit_collective_sent_bytes", collective="sum 'dense/kernel'") == 4096
    assert value("hvdkit_job_info", optimizer="Adam", learning_rate="0.5", epochs="3", model="a|b")
    with pytest.raises(urllib.error.URLError, match="refused"):  # another address of this host
        scraped(url.replace("127.0.0.1", "127.0.0.2"))
    sink.end()
    with pytest.raises(urllib.error.URLError, match="refused"):
        scraped(url)
    sink.begin(JOB)  # the next fit
    sink.end()


def test_prometheus_names_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sink = hvd.monitoring.Prometheus(port)
        with pytest.raises(hvd.HvdkitError, match=f"port {port} of 127.0.0.1: Address already in"):
            Sinks([sink]).begin(JOB)
    with pytest.raises(hvd.HvdkitError, match=r"port 0 of 203.0.113.1: "):
        hvd.monitoring.Prometheus(0, address="203.0.113.1").begin(JOB)
    with pytest.raises(ValueError, match="there is no port 70000"):
        hvd.monitoring.Prometheus(70000)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The address and the process of a server of MLflow's."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "log").open("w") as log:
        command = [sys.executable, str(ROOT / "tests/mlflow_server.py"), str(folder), str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 90
        while not answers(f"{url}/health"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def only_run(uri: str, experiment: str) -> Any:
    """The one run of an experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return found


@pytest.mark.long
def test_mlflow_keeps_a_run_with_its_model(mlflow_server: tuple[str, int], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri, _ = mlflow_server
    sinks = Sinks([hvd.monitoring.MLflow(uri, experiment="first", run_name="one", model=True)])
    sinks.begin(Job(2, ["one", "two"], JOB.parameters, resumed_at=5))
    sinks.log(sample(10))
    sinks.log(sample(20, loss=math.nan))
    sinks.alarm(ALARM)
    sinks.log(epoch_sample(20))
    assert sinks.take_models
    (tmp_path / "model.keras").write_text("weights")
    sinks.model(str(tmp_path / "model.keras"))
    (tmp_path / "model.keras").unlink()
    with heard() as texts:
        sinks.end()
    assert texts == []
    found = only_run(uri, "first")
    assert found.info.run_name == "one"
    assert found.info.status == "FINISHED"
    assert found.data.params["optimizer"] == "Adam"
    assert found.data.params["ranks"] == "2"
    assert found.data.metrics["rows_per_second"] == 300
    assert found.data.metrics["epoch/val_loss"] == 0.75
    assert found.data.tags["hvdkit.resumed_at"] == "5"
    assert found.data.tags["hvdkit.alarm.20.straggler"] == ALARM.text
    client = MlflowClient(tracking_uri=uri)
    losses = client.get_metric_history(found.info.run_id, "loss")
    assert [each.step for each in losses] == [10, 20]
    assert losses[0].value == 0.5
    assert math.isnan(losses[1].value)
    assert losses[0].timestamp == int(NOW * 1000)
    path = client.download_artifacts(found.info.run_id, "model/model.keras", str(tmp_path))
    assert Path(path).read_text() == "weights"


@pytest.mark.long
def test_mlflow_says_that_a_training_failed(mlflow_server: tuple[str, int]) -> None:
    sinks = Sinks([hvd.monitoring.MLflow(mlflow_server[0], experiment="failed")])

    def fit() -> None:
        try:
            sinks.begin(JOB)
            raise KeyError
        finally:
            sinks.end()

    with pytest.raises(KeyError):
        fit()
    assert only_run(mlflow_server[0], "failed").info.status == "FAILED"


def test_mlflow_goes_away_and_comes_back(
    mlflow_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hvdkit.monitoring.sinks import mlflow_run

    monkeypatch.setattr(mlflow_run, "_ANSWER_SECONDS", 0.5)
    uri, process = mlflow_server
    sinks = Sinks([hvd.monitoring.MLflow(uri, experiment="away")])
    sinks.begin(JOB)
    with heard() as texts:
        os.kill(process, signal.SIGSTOP)
        try:
            for step in range(10, 40, 10):
                sinks.log(sample(step))
            until = time.monotonic() + 60
            while not texts and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            os.kill(process, signal.SIGCONT)
        sinks.end()
    assert texts == [
        f"hvdkit: MLflow: no answer from {uri}. The training goes on; figures are kept, and sent "
        "when it is back."
    ]
    found = only_run(uri, "away")
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss"] == 0.5


def test_mlflow_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_END_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = Kept()
    with heard() as texts:
        run(hvd.monitoring.MLflow(f"http://name:secret@127.0.0.1:{port}", model=True), kept)
    assert len(kept.got) == 6
    assert len(texts) == 2, texts
    assert texts[0].startswith(f"hvdkit: MLflow: no answer from http://127.0.0.1:{port}. The tr")
    assert texts[1] == (
        "hvdkit: MLflow did not get everything: 6 messages (samples, alarms, the model) were not "
        f"sent; no answer from http://127.0.0.1:{port}."
    )


def test_mlflow_writes_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"file://{tmp_path}"
    sink = hvd.monitoring.MLflow(uri, experiment="local")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(hvd.HvdkitError, match=f"MLflow can't use {uri}: "):
        Sinks([sink]).begin(JOB)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run(sink)
    found = only_run(uri, "local")
    assert found.info.status == "FINISHED"
    assert found.data.metrics["rows_per_second"] == 300
