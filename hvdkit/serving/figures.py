"""Figures for Prometheus: what was asked, how long it took, and what serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Serving:
    """What is known of a model at a moment.

    Attributes:
        model: its name.
        version: that serves; 0 for none.
        ready: whether it can.
        failed: versions that could not be loaded.
        waiting: requests in its queue.
    """

    model: str
    version: int
    ready: bool
    failed: int
    waiting: int


class Figures:
    """Counters and histograms of a server.

    Labels are the names of models that there are, and numbers of HTTP: never what clients make up.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            name = f"hvdkit_serve_{name}"
            return Histogram(name, text, ["model"], registry=registry, buckets=buckets)

        def counter(name: str, text: str, label: Sequence[str] = ("model",)) -> Counter:
            return Counter(f"hvdkit_serve_{name}", text, label, registry=registry)

        self._requests = counter("requests", "Requests to infer.", ("model", "code"))
        self._refused = counter("refused", "Requests that got no tensors.", ("reason",))
        self._seconds = histogram("request_seconds", "From a request to its answer.", _SECONDS)
        self._queued = histogram("queue_seconds", "That a request waited.", _SECONDS)
        self._ran = histogram("run_seconds", "That the model took for a batch.", _SECONDS)
        self._rows = histogram("batch_rows", "Rows of a batch.", _ROWS)
        self._together = histogram("batch_requests", "Requests of a batch.", _ROWS)
        self._divided = counter("divided_batches", "Batches that failed, and ran one by one.")
        self._lost = counter("lost_processes", "Processes that crashed or took too long.")
        self._failed = counter("failed_loads", "Versions that could not be loaded.")

    def answered(self, model: str, code: int, seconds: float) -> None:
        """Count a request to infer; "" for a model that there is not."""
        self._requests.labels(model, str(code)).inc()
        if code == 200:
            self._seconds.labels(model).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a request that got no tensors."""
        self._refused.labels(reason).inc()

    def ran(self, model: str, queued: Sequence[float], ran: float, rows: int) -> None:
        """Count a batch: how long each of its requests waited, and what it was."""
        for seconds in queued:
            self._queued.labels(model).observe(seconds)
        self._ran.labels(model).observe(ran)
        self._rows.labels(model).observe(rows)
        self._together.labels(model).observe(len(queued))

    def divided(self, model: str) -> None:
        """Count a batch that failed as a whole."""
        self._divided.labels(model).inc()

    def lost(self, model: str) -> None:
        """Count a process that was lost."""
        self._lost.labels(model).inc()

    def failed(self, model: str) -> None:
        """Count a version that could not be loaded."""
        self._failed.labels(model).inc()

    def watch(self, state: Callable[[], Sequence[Serving]]) -> None:
        """Show what serves, at each look."""
        self._registry.register(_State(state))

    def page(self) -> bytes:
        """The figures as Prometheus reads them."""
        return generate_latest(self._registry)


class _State(Collector):
    def __init__(self, state: Callable[[], Sequence[Serving]]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"hvdkit_serve_{name}", text, labels=["model"])

        version = gauge("version", "The version that serves; 0 for none.")
        ready = gauge("ready", "Whether the model can answer.")
        failed = gauge("failed_versions", "Versions in the folder that could not be loaded.")
        waiting = gauge("waiting_requests", "Requests in the queue.")
        for each in self._state():
            version.add_metric([each.model], each.version)
            ready.add_metric([each.model], each.ready)
            failed.add_metric([each.model], each.failed)
            waiting.add_metric([each.model], each.waiting)
        yield from (version, ready, failed, waiting)
