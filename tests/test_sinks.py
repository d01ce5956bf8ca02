"""What takes the figures of a job, each against the real thing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checks.hearing import heard
from sink_samples import ALARM, JOB, Kept, epoch_sample, run, sample

import hvdkit as hvd
from hvdkit.monitoring.sample import Job, Sample
from hvdkit.monitoring.sinks import background
from hvdkit.monitoring.sinks.all_sinks import Sinks
from hvdkit.monitoring.sinks.background import AwayError, Background
from hvdkit.monitoring.sinks.lines import LineReader

pytestmark = pytest.mark.quick
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def test_a_sink_that_fails_is_said_once_and_the_others_go_on() -> None:
    kept, failing, at_begin = Kept(), Kept("log"), Kept("begin", ValueError("no place."))
    with heard() as texts:
        run(at_begin, failing, kept, samples=3)
    assert texts == [
        "hvdkit: Kept takes no more figures: no place. The training goes on without it.",
        "hvdkit: Kept takes no more figures: [Errno 28] No space left on device. "
        "The training goes on without it.",
    ]
    assert len(kept.got) == 7
    assert kept.got[0] is JOB
    assert kept.got[-1] == "end"
    assert failing.got == [JOB, "end"]


def test_a_sink_that_failed_begins_again_with_the_next_fit() -> None:
    failing = Kept("log")
    sinks = Sinks([failing])
    with heard():
        sinks.begin(JOB)
        sinks.log(sample(10))
    failing.failing = ""
    sinks.begin(JOB)
    sinks.log(sample(20))
    assert failing.got[-1].step == 20


def test_what_can_not_work_is_an_error_and_ends_the_sinks_that_began() -> None:
    kept = Kept()
    sinks = Sinks([kept, Kept("begin", hvd.HvdkitError("port 80 is taken"))])
    with pytest.raises(hvd.HvdkitError, match="port 80 is taken"):
        sinks.begin(JOB)
    assert kept.got == [JOB, "end"]


def test_what_is_no_sink_is_named() -> None:
    with pytest.raises(TypeError, match=r"an instance: Terminal\(...\)"):
        Sinks([hvd.monitoring.Terminal])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="'logs', which is no sink"):
        Sinks(["logs"])  # type: ignore[list-item]


def test_only_those_that_want_models_get_them() -> None:
    wanting = hvd.monitoring.MLflow("http://127.0.0.1:1", model=True)
    assert isinstance(wanting, hvd.monitoring.TakesModel)
    for other in (hvd.monitoring.MLflow("http://127.0.0.1:1"), Kept()):
        assert not isinstance(other, hvd.monitoring.TakesModel)


def test_terminal_prints_a_line_for_each_sample(capsys: pytest.CaptureFixture[str]) -> None:
    run(hvd.monitoring.Terminal())
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        "step 20, epoch 1: loss 0.5, learning rate 0.5, 300 rows/s, a step 200 ms (compute 60%, "
        "waiting for ranks 20%, exchange 10%, waiting for data 5%, rest 5%), memory 3 GiB, "
        "25% of the peak FLOP/s, 90 W"
    )
    assert lines[0].startswith("step 10, epoch 1: loss nan, ")
    assert lines[2] == "epoch 1: loss 0.25, val_loss 0.75"


def test_terminal_takes_the_line_of_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (1, "auto", 0, 2):
        terminal = hvd.monitoring.Terminal()
        terminal.begin(Job(1, ["one"], {"verbose": verbose}))
        sys.stdout.write("12/100 ---- 1s")
        terminal.log(epoch_sample(10))
        line = "epoch 1: loss 0.25, val_loss 0.75\n"
        fresh = "\r\x1b[2K" if verbose in (1, "auto") else ""
        assert capsys.readouterr().out == f"12/100 ---- 1s{fresh}{line}"


def test_json_lines_are_json_and_come_back(tmp_path: Path) -> None:
    run(hvd.monitoring.JsonLines(tmp_path / "new" / "logs"))
    lines = (tmp_path / "new/logs/monitor.jsonl").read_text().splitlines()
    read = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [each["type"] for each in read] == ["job", "sample", "sample", "alarm", "sample", "end"]
    assert all(each["time"] > 0 for each in read)
    assert read[1]["values"]["loss"] is None
    assert read[2]["ranks"][1]["values"]["waiting_for_data_seconds"] == 0.05
    job, nan, finite, alarm, logs = hvd.monitoring.read_lines(tmp_path / "new" / "logs")
    assert (job, finite, alarm, logs) == (JOB, sample(20), ALARM, epoch_sample(20))
    assert isinstance(nan, Sample)
    assert math.isnan(nan.values["loss"])


def test_json_lines_go_on_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "monitor.jsonl"
    sink = hvd.monitoring.JsonLines(tmp_path)
    sink.begin(JOB)
    sink.log(sample(10))
    sink.end()
    path.write_bytes(path.read_bytes()[:-40])  # a job that was killed
    assert list(hvd.monitoring.read_lines(tmp_path)) == [JOB, sample(10)]
    path.write_bytes(path.read_bytes()[:-40])
    assert list(hvd.monitoring.read_lines(tmp_path)) == [JOB]
    sink.begin(Job(1, ["one"], {}, resumed_at=10))
    assert [type(each) for each in hvd.monitoring.read_lines(tmp_path)] == [Job, Job]


def test_json_lines_are_followed_while_they_are_written(tmp_path: Path) -> None:
    sink = hvd.monitoring.JsonLines(tmp_path)
    sink.begin(JOB)
    reader = LineReader(tmp_path)
    assert [line.event for line in reader.new_lines()] == [JOB]
    sink.log(sample(10))
    whole = reader.path.read_bytes()
    with reader.path.open("ab") as file:
        file.write(whole.splitlines()[1][:100])
        file.flush()
        assert [line.event for line in reader.new_lines()] == [sample(10)]
        file.write(whole.splitlines()[1][100:] + b"\n")
    assert [line.event for line in reader.new_lines()] == [sample(10)]
    assert list(reader.new_lines()) == []


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A folder with little room."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, timeout=30).returncode:
        pytest.skip("only root can make a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)


def test_a_full_disk_is_said_once_and_the_others_go_on(tmp_path: Path) -> None:
    kept = Kept()
    with small_disk(tmp_path / "disk", 64) as disk, heard() as texts:
        full = [hvd.monitoring.TensorBoard(disk / "tb"), hvd.monitoring.JsonLines(disk / "logs")]
        run(*full, kept, samples=100)
        assert [text.partition(" takes")[0] for text in sorted(texts)] == [
            "hvdkit: JsonLines",
            "hvdkit: TensorBoard",
        ]
        assert all("No space left on device" in text for text in texts)
        assert len(list(hvd.monitoring.read_lines(disk / "logs"))) > 10
    assert len(kept.got) == 104


@pytest.mark.parametrize("kind", ["JsonLines", "TensorBoard"])
def test_a_folder_that_can_not_be_made_is_an_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sink = getattr(hvd.monitoring, kind)(tmp_path / "file" / "logs")
    with pytest.raises(hvd.HvdkitError, match=r"file/logs.*: Not a directory\. Give it"):
        Sinks([sink]).begin(JOB)


@pytest.mark.parametrize(
    ("package", "extra", "make"),
    [
        ("tensorboard", "tensorboard", lambda: hvd.monitoring.TensorBoard("logs")),
        ("mlflow", "mlflow", lambda: hvd.monitoring.MLflow("http://one")),
        ("prometheus_client", "prometheus", lambda: hvd.monitoring.Prometheus(9400)),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    package: str, extra: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # it can't be imported
    with pytest.raises(hvd.InstallationError, match=rf"pip install 'hvdkit\[{extra}\]'"):
        make()


def test_a_server_that_is_away_for_long_loses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_END_SECONDS", 0.1)

    class Away(Kept):
        def begin(self, job: Job) -> None:
            raise AwayError("nobody is there")

    sink = Background(Away(), "It")
    with heard() as texts:
        sink.begin(JOB)
        for step in range(background._KEPT + 5):
            sink.log(sample(step))
        sink.end()
    assert [text.partition(":")[2].split(".")[0] for text in texts] == [
        " It: nobody is there",
        " It did not get everything: 1007 messages (samples, alarms, the model) were not sent; "
        "nobody is there",
    ]


def test_what_a_sink_in_a_thread_raises_comes_out() -> None:
    sink = Background(Kept("log", ValueError("no such experiment")), "It")
    sinks = Sinks([sink])
    with heard() as texts:
        sinks.begin(JOB)
        sinks.log(sample(10))
        sinks.end()
    (text,) = texts
    assert "takes no more figures: no such experiment." in text
