"""Alarms of jobs that are made up: what they find, how soon, and that they are quiet else."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from launch import run_ranks

from hvdkit.monitoring.alarms.base import Lookout
from hvdkit.monitoring.alarms.defaults import default_alarms
from hvdkit.monitoring.alarms.full_disk import FullDisk
from hvdkit.monitoring.alarms.loss_jump import LossJump
from hvdkit.monitoring.alarms.slow_data import SlowData
from hvdkit.monitoring.alarms.slow_throughput import SlowThroughput
from hvdkit.monitoring.alarms.straggler import Straggler
from hvdkit.monitoring.alarms.web_hook import WebHook
from hvdkit.monitoring.sample import Alarm, RankSample, Sample

pytestmark = pytest.mark.quick

STEPS = 10
STEP_SECONDS = 0.25
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(spread: float) -> Noise:
    return lambda random, shape: np.clip(random.normal(1, spread, shape), 0.2, None)


def with_pauses(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Five percent of noise, and every hundredth step takes five times as long."""
    return random.normal(1, 0.05, shape) + 4 * (random.random(shape) < 0.01)


def skewed(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.lognormal(0, 0.2, shape)


def job(
    ranks: int,
    samples: int,
    noise: Noise,
    slow: dict[int, float] | None = None,
    slow_at: int = 0,
    data: dict[int, float] | None = None,
    steps: int = STEPS,
) -> Iterator[Sample]:
    """Samples of ranks that compute, and wait for the slowest in each step."""
    random = np.random.default_rng(7)
    for i in range(samples):
        seconds = STEP_SECONDS * noise(random, (steps, ranks))
        if i >= slow_at:
            seconds *= [(slow or {}).get(rank, 1.0) for rank in range(ranks)]
        reading = np.array([(data or {}).get(rank, 0.0) for rank in range(ranks)])
        reading = reading * STEP_SECONDS if i >= slow_at else np.zeros(ranks)
        busy = seconds + reading
        waits = (busy.max(axis=1, keepdims=True) - busy).mean(axis=0)
        step = busy.max(axis=1).mean() + 0.02
        own = seconds.mean(axis=0)
        yield Sample(
            step=(i + 1) * steps,
            epoch=1,
            steps=steps,
            time=1e9 + (i + 1) * steps * step,
            values={"rows_per_second": ranks * 32 / step, "step_seconds": step, "loss": 1.0},
            ranks=[
                RankSample(
                    rank,
                    f"node{rank // 4}",
                    {
                        "step_seconds": step,
                        "compute_seconds": own[rank],
                        "waiting_for_data_seconds": reading[rank],
                        "waiting_for_ranks_seconds": waits[rank],
                    },
                )
                for rank in range(ranks)
            ],
        )


def of_losses(losses: list[float] | np.ndarray, steps: int = STEPS) -> Iterator[Sample]:
    for i, loss in enumerate(losses):
        yield Sample((i + 1) * STEPS, 1, steps, 1e9 + i, {"loss": float(loss)})


def seen(lookout: Lookout, samples: Iterator[Sample]) -> list[Alarm]:
    return [alarm for sample in samples if (alarm := lookout.look(sample)) is not None]


# A straggler


@pytest.mark.parametrize("ranks", [2, 3, 4, 16])
@pytest.mark.parametrize("noise", [normal(0.05), normal(0.15), skewed, with_pauses])
def test_equal_ranks_have_no_straggler(ranks: int, noise: Noise) -> None:
    assert seen(Straggler(), job(ranks, 500, noise)) == []


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("noise", [normal(0.0), normal(0.05), normal(0.1)])
def test_a_rank_slowed_by_a_fifth_is_found(ranks: int, noise: Noise) -> None:
    (alarm,) = seen(Straggler(), job(ranks, 100, noise, slow={1: 1.2}, slow_at=30))
    assert alarm.kind == "straggler"
    assert (alarm.rank, alarm.host) == (1, "node0")
    assert 300 < alarm.step <= 300 + 10 * STEPS
    assert alarm.text.startswith("rank 1 (node0) keeps the other ranks waiting since step ")
    assert "see what else runs on its host" in alarm.text


def test_a_straggler_that_reads_slowly() -> None:
    (alarm,) = seen(Straggler(), job(4, 50, normal(0.05), data={3: 0.4}))
    assert alarm.rank == 3
    assert "waits for data for 0.1 s a step longer" in alarm.text


def test_a_slow_host_among_others_is_told_of_as_its_ranks() -> None:
    slow = dict.fromkeys((4, 5, 6, 7), 1.3)
    (alarm,) = seen(Straggler(), job(8, 50, normal(0.0), slow=slow))
    assert (alarm.rank, alarm.host) == (None, "node1")
    assert "ranks 4 (node1), 5 (node1), 6 (node1) and 7 (node1) keep" in alarm.text
    most = dict.fromkeys(range(1, 8), 1.3)
    assert seen(Straggler(), job(8, 50, normal(0.0), slow=most)) == []


def test_many_ranks_are_not_all_named() -> None:
    slow = dict.fromkeys(range(6), 1.5)
    (alarm,) = seen(Straggler(), job(16, 50, normal(0.0), slow=slow))
    assert "3 (node0) and 2 more keep" in alarm.text
    assert alarm.host is None


def test_a_short_pause_is_no_straggler() -> None:
    pause = [*job(2, 20, normal(0.02)), *job(2, 5, normal(0.02), slow={0: 2.0})]
    assert seen(Straggler(), iter(pause + list(job(2, 20, normal(0.02))))) == []


def test_a_straggler_is_told_of_again_only_after_it_has_been_well() -> None:
    well, slow = list(job(2, 12, normal(0.02))), list(job(2, 12, normal(0.02), slow={0: 1.5}))
    assert len(seen(Straggler(), iter(slow * 20))) == 1
    assert len(seen(Straggler(), iter(slow + well[:9] + slow))) == 1
    assert len(seen(Straggler(), iter(slow + well + slow))) == 2


@pytest.mark.parametrize("ranks", [0, 1])
def test_alone_there_is_no_straggler(ranks: int) -> None:
    for sample in job(1, 20, normal(0.1)):
        assert Straggler().look(dataclasses.replace(sample, ranks=sample.ranks[:ranks])) is None


def test_waiting_times_that_are_not_known_say_nothing() -> None:
    def unknown(sample: Sample) -> Sample:
        first, *others = sample.ranks
        values = {**first.values, "waiting_for_ranks_seconds": math.nan}
        return dataclasses.replace(sample, ranks=[RankSample(0, "node0", values), *others])

    samples = (unknown(sample) for sample in job(2, 30, normal(0.0), slow={0: 2.0}))
    assert seen(Straggler(), samples) == []


def test_another_process_with_the_number_of_a_straggler_begins_anew() -> None:
    samples = [*job(4, 7, normal(0.0), slow={3: 1.5}), *job(3, 1, normal(0.0))]
    samples += job(4, 3, normal(0.0), slow={3: 1.5})
    assert seen(Straggler(), iter(samples)) == []


# Data


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_data_that_does_not_keep_up(ranks: int) -> None:
    slow = {ranks - 1: 0.5}
    (alarm,) = seen(SlowData(), job(ranks, 60, normal(0.1), data=slow, slow_at=20))
    assert (alarm.kind, alarm.rank, alarm.step) == ("data", ranks - 1, 280)
    assert f"rank {ranks - 1} (node{(ranks - 1) // 4}) waits for data since step 200" in alarm.text
    assert seen(SlowData(), job(ranks, 60, normal(0.1), data={0: 0.1})) == []


def test_data_of_all_ranks() -> None:
    (alarm,) = seen(SlowData(), job(4, 20, normal(0.05), data=dict.fromkeys(range(4), 0.5)))
    assert alarm.text.startswith("all ranks wait for data since step 0, now for 3")
    assert (alarm.rank, alarm.host) == (None, "node0")


def test_data_of_a_job_without_figures_of_ranks() -> None:
    values = {"step_seconds": 0.2, "waiting_for_data_seconds": 0.1}
    samples = [Sample(10 * i, 1, 10, 1e9, values) for i in range(1, 20)]
    (alarm,) = seen(SlowData(), iter(samples))
    assert alarm.text.startswith("the job waits for data since step 0, now for 50 % of each step")


# Throughput


def test_throughput_that_falls() -> None:
    slow = dict.fromkeys(range(4), 2.0)
    (alarm,) = seen(SlowThroughput(), job(4, 100, normal(0.1), slow=slow, slow_at=50))
    assert (alarm.kind, alarm.step, alarm.rank) == ("throughput", 580, None)
    assert "since step 500, " in alarm.text
    assert "% of its usual " in alarm.text


@pytest.mark.parametrize("noise", [normal(0.2), skewed, with_pauses])
def test_throughput_that_only_varies(noise: Noise) -> None:
    assert seen(SlowThroughput(), job(4, 1500, noise)) == []


def test_throughput_of_fewer_ranks_is_another_one() -> None:
    samples = [*job(4, 50, normal(0.1)), *job(2, 50, normal(0.1))]
    assert seen(SlowThroughput(), iter(samples)) == []


# The loss


RANDOM = np.random.default_rng(3)
FALLING = 0.1 + 2.5 * np.exp(-np.arange(1000) / 100)


def running_means(losses: np.ndarray, epoch: int) -> np.ndarray:
    """What Keras logs: the mean since the epoch began."""
    counts = np.arange(1, epoch + 1)
    return (np.cumsum(losses.reshape(-1, epoch), axis=1) / counts).ravel()


@pytest.mark.parametrize(
    "losses",
    [
        FALLING,
        FALLING * RANDOM.normal(1, 0.1, 1000),
        FALLING * RANDOM.lognormal(0, 0.6, 1000),
        RANDOM.normal(0, 1, 1000),
        -FALLING[::-1],
        np.full(1000, 0.5),
        np.zeros(1000),
        running_means(RANDOM.normal(1, 0.08, 1000), 50),
        [*np.full(50, 1.0), 9.0, 9.0, *np.full(50, 1.0)],
        2 + 0.3 * np.sin(np.arange(1000) / 30),
    ],
)
def test_a_loss_that_does_not_jump(losses: np.ndarray) -> None:
    assert seen(LossJump(), of_losses(losses)) == []


def test_a_loss_that_jumps_is_told_of_once() -> None:
    losses = FALLING[:200] * RANDOM.normal(1, 0.05, 200)
    losses[120:] += 1.0
    (alarm,) = seen(LossJump(), of_losses(losses))
    assert (alarm.kind, alarm.step) == ("loss", 1230)
    assert "since step 1200" in alarm.text
    again = np.concatenate([losses, losses[120:] + 5])
    assert [alarm.step for alarm in seen(LossJump(), of_losses(again))] == [1230, 2030]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_told_of_at_once(bad: float) -> None:
    (alarm,) = seen(LossJump(), of_losses([1.0, bad, bad, 1.0, bad]))
    assert alarm.step == 20
    assert alarm.text.startswith(f"the loss is {bad:g} since step 10")
    (alarm,) = seen(LossJump(), of_losses([bad], steps=0))
    assert alarm.step == 10


def test_no_loss_no_alarm() -> None:
    assert LossJump().look(Sample(1, 1, 1, 0.0, {})) is None


# Disks


class Disk:
    """A disk of which somebody else takes space."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: float) -> None:
        self.free = free
        self.asked: list[Path] = []
        usage = namedtuple("usage", "total used free")

        def disk_usage(path: Path) -> object:
            self.asked.append(path)
            return usage(1 << 40, 0, int(self.free))

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)


GIB = 1 << 30


def minutes(disk: Disk, lookout: FullDisk, loses: list[float]) -> list[Alarm]:
    """Samples, one a minute, of a disk that loses so many GiB in each."""
    alarms = []
    host = [RankSample(0, "node0", {})]
    for minute, lost in enumerate(loses):
        disk.free -= lost * GIB
        sample = Sample(minute + 1, 1, 1, 1e9 + 60 * minute, {}, ranks=host)
        alarms += [alarm] if (alarm := lookout.look(sample)) else []
    return alarms


def test_a_real_disk_has_what_it_has(tmp_path: Path) -> None:
    left = shutil.disk_usage(tmp_path).free
    sample = Sample(5, 1, 5, 1e9, {}, ranks=[RankSample(0, "node0", {})])
    alarm = FullDisk(tmp_path / "not" / "there", free=10 * left).look(sample)
    assert alarm is not None
    assert (alarm.kind, alarm.host, alarm.step) == ("disk", "node0", 5)
    assert f"the disk of {tmp_path}/not/there on node0 has " in alarm.text
    assert FullDisk(tmp_path, free=left / 2).look(sample) is None


def test_a_disk_that_fills_is_found_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 500 * GIB)
    (alarm,) = minutes(disk, FullDisk(), [0.0] * 60 + [10.0] * 45)
    assert 60 < alarm.step < 90
    assert "so it will be full in " in alarm.text


def test_disks_that_are_not_in_need(monkeypatch: pytest.MonkeyPatch) -> None:
    slowly = [0.05] * 600
    assert minutes(Disk(monkeypatch, 500 * GIB), FullDisk(), slowly) == []
    checkpoints = ([20.0] + [0.0] * 29) * 4 + ([20.0, -20.0] + [0.0] * 28) * 20
    assert minutes(Disk(monkeypatch, 300 * GIB), FullDisk(), checkpoints) == []
    growing = [-1.0] * 100
    assert minutes(Disk(monkeypatch, 5 * GIB), FullDisk(), growing) == []


def test_a_nearly_full_disk_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 1.5 * GIB)
    lookout = FullDisk(["/a", "/b"])
    first, second = minutes(disk, lookout, [0.0] * 100)
    assert (first.step, second.step) == (1, 2)
    assert "the disk of /a on node0 has 1.5 GiB left at step 1, less than 2 GiB" in first.text
    assert "the disk of /b" in second.text


def test_a_disk_is_not_asked_with_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 500 * GIB)
    lookout = FullDisk("/")
    for i in range(100):
        lookout.look(Sample(i, 1, 1, 1e9 + i, {}))
    assert len(disk.asked) == 10


def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 500 * GIB)
    lookout = FullDisk("/")
    for i in range(100):
        disk.free -= 0.01 * GIB
        assert lookout.look(Sample(i, 1, 1, 1e9 + 60 * (i % 50), {})) is None


# All of them


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Straggler(share=1.0), "Straggler(share=1.0): share is a share, above 0"),
        (lambda: Straggler(share="a"), "share is a share"),  # type: ignore[arg-type]
        (lambda: Straggler(samples=0), "samples is a number of samples, at least 1"),
        (lambda: SlowData(of=2.5), "of is a number of samples"),  # type: ignore[arg-type]
        (lambda: SlowThroughput(samples=9, of=8), "can't be so in 9 of 8 samples"),
        (lambda: SlowData(share=math.nan), "share is a share"),
        (lambda: LossJump(spreads=0), "LossJump(spreads=0): spreads is a number above 0"),
        (lambda: LossJump(of=2), "of is a number of samples, at least 5"),
        (lambda: FullDisk([]), "name a path"),
        (lambda: FullDisk(free=-1), "free is a number above 0"),
        (lambda: FullDisk(within=math.inf), "within is a number above 0"),
    ],
)
def test_arguments_that_do_not_fit(make: Callable[[], Lookout], said: str) -> None:
    with pytest.raises(ValueError, match=r"^[A-Z]") as error:
        make()
    assert said in str(error.value)


def test_a_copy_looks_at_another_job() -> None:
    lookouts = default_alarms()
    slow = list(job(2, 15, normal(0.0), slow={1: 1.5}))
    for _ in range(2):
        fresh = copy.deepcopy(lookouts)
        found = [alarm.kind for each in fresh for alarm in seen(each, iter(slow))]
        assert [kind for kind in found if kind != "disk"] == ["straggler"]


def test_alarms_look_quickly() -> None:
    """At the order of a millisecond a sample of 64 ranks; a hundred times that fails."""
    samples = list(job(64, 100, normal(0.1)))
    begun = time.perf_counter()
    for lookout in default_alarms():
        seen(lookout, iter(samples))
    assert time.perf_counter() - begun < 20


def test_alarms_need_no_tensorflow() -> None:
    code = (
        "import sys\n"
        "import hvdkit.monitoring.alarms.defaults, hvdkit.monitoring.alarms.web_hook\n"
        "assert not {'tensorflow', 'keras', 'numpy', 'horovod'} & sys.modules.keys()"
    )
    run_ranks("python", 1, ["-c", code], timeout=30).require_success()


# The web hook


ALARM = Alarm("loss", "the loss is nan.", 20, rank=None, host=None)


class Server:
    """An HTTP server on this host that keeps what it is sent."""

    def __init__(
        self,
        status: int = 200,
        headers: dict[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.bodies: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                server.bodies.append(json.loads(self.rfile.read(length)))
                server.headers.append(dict(self.headers))
                server.paths.append(self.path)
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_a_web_hook_sends_alarms(server: Server) -> None:
    hook = WebHook(f"{server.url}/secret", headers={"Authorization": "Bearer b"})
    hook(ALARM)
    hook(Alarm("straggler", "rank 1 …", 30, rank=1, host="node0"))
    hook.end()
    none = {"rank": None, "host": None}
    assert server.bodies == [
        {"kind": "loss", "text": "the loss is nan.", "step": 20, **none},
        {"kind": "straggler", "text": "rank 1 …", "step": 30, "rank": 1, "host": "node0"},
    ]
    assert server.paths == ["/secret"] * 2
    assert server.headers[0]["Authorization"] == "Bearer b"
    assert server.headers[0]["Content-Type"] == "application/json"
    hook(ALARM)  # in the next fit
    hook.end()
    assert len(server.bodies) == 3


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def unused_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_server_that_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    port = unused_port()
    hook = WebHook(f"http://127.0.0.1:{port}/secret")
    begun = time.monotonic()
    for _ in range(50):
        hook(ALARM)
    hook.end()
    assert time.monotonic() - begun < 3.5
    (said,) = warnings_of(caplog)
    assert said.startswith(
        f"hvdkit: alarms can't be sent to http://127.0.0.1:{port}: [Errno 111] Connection refused."
    )
    assert "secret" not in said


def test_a_server_that_never_answers_delays_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hook = WebHook(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        begun = time.monotonic()
        for _ in range(300):
            hook(ALARM)
        assert time.monotonic() - begun < 0.5
        hook.end()
        assert time.monotonic() - begun < 3
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (302, {"Location": "file:///etc/passwd"}, "it answers 302, which leads elsewhere"),
        (307, {"Location": "http://127.0.0.1:1/"}, "it answers 307, which leads elsewhere"),
        (404, {}, "it answers 404 Not Found"),
        (500, {}, "it answers 500 Internal Server Error"),
    ],
)
def test_answers_that_are_no_success(
    caplog: pytest.LogCaptureFixture, status: int, headers: dict[str, str], said: str
) -> None:
    server = Server(status, headers)
    hook = WebHook(server.url)
    hook(ALARM)
    hook(ALARM)
    hook.end()
    server.close()
    (warning,) = warnings_of(caplog)
    assert said in warning
    assert len(server.bodies) == 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_is_verified(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(context=context)
    hook = WebHook(server.url)
    hook(ALARM)
    hook.end()
    (warning,) = warnings_of(caplog)
    assert "CERTIFICATE_VERIFY_FAILED" in warning
    assert server.bodies == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # now it is one that is trusted
    hook(ALARM)
    hook.end()
    server.close()
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "file:///etc/passwd"},
        {"url": "ftp://host/x"},
        {"url": "host.example/x"},
        {"url": "https://"},
        {"url": "https://host:99999/"},
        {"url": "https://host/a b"},
        {"url": "https://host/\r\nX: y"},
        {"url": None},
        {"url": "https://me:secret@host/"},
        {"url": "https://host", "headers": {"X": "a\r\nY: b"}},
        {"url": "https://host", "headers": {"X Y": "a"}},
        {"url": "https://host", "headers": {"X": 3}},
        {"url": "https://host", "timeout": 0},
        {"url": "https://host", "timeout": math.inf},
    ],
)
def test_web_hooks_that_are_none(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^hvd\.monitoring\.WebHook: ") as error:
        WebHook(**arguments)  # type: ignore[arg-type]
    assert "secret" not in str(error.value)


def test_a_script_that_ends_by_an_error_still_sends(server: Server) -> None:
    code = (
        "from hvdkit.monitoring.alarms.web_hook import WebHook\n"
        "from hvdkit.monitoring.sample import Alarm\n"
        f"WebHook('{server.url}')(Alarm('loss', 'the loss is nan.', 20))\n"
        "raise SystemExit(3)"
    )
    assert run_ranks("python", 1, ["-c", code], timeout=30).status == 3
    assert len(server.bodies) == 1
