"""Figures for Prometheus to fetch."""

from __future__ import annotations

import threading
from typing import Any

from hvdkit.errors import HvdkitError
from hvdkit.monitoring.sample import Alarm, Job, Sample
from hvdkit.monitoring.sinks.installed import require


class Prometheus:
    """An HTTP endpoint with the last figures, as long as a `fit` runs.

    Figures of the job are "hvdkit_rows_per_second" and so on, those of each rank
    "hvdkit_rank_rows_per_second" with the labels "rank" and "host", so that a sum over ranks counts
    nothing twice. Logs of `fit` are "hvdkit_log" with the label "name", those of the end of an
    epoch "hvdkit_epoch_log". Units are in the names: seconds, bytes, watts, joules, ratio.

    Whoever reaches the address can read them; there is no password. So it is the loopback interface
    unless you say otherwise.

    Needs `pip install 'hvdkit[prometheus]'`.

    Args:
        port: where to listen; 0 for any free port, which is logged.
        address: of the interface to listen on; "0.0.0.0" for all.

    Attributes:
        url: where the figures are, while a `fit` runs; else None.

    Raises:
        InstallationError: prometheus-client is missing.
        ValueError: there is no such port.
        HvdkitError: on every rank, before the first step: the port is taken, or there is no such
            address.

    Example:
        >>> endpoint = hvd.monitoring.Prometheus(port=9400)
        >>> monitor = hvd.callbacks.Monitor(sinks=[hvd.monitoring.Terminal(), endpoint])
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        require("prometheus_client", "prometheus", "Prometheus")
        if not 0 <= port < 2**16:
            raise ValueError(f"there is no port {port}: ports are 1 to 65535, or 0 for any.")
        self.url: str | None = None
        self._port = port
        self._address = address
        self._server: tuple[Any, threading.Thread] | None = None

    def begin(self, job: Job) -> None:
        """Listen."""
        from prometheus_client import CollectorRegistry, start_http_server

        from hvdkit.monitoring.sinks.prometheus_figures import Figures

        self._figures = Figures(job)
        registry = CollectorRegistry()
        registry.register(self._figures)
        try:
            self._server = start_http_server(self._port, self._address, registry)
        except OSError as error:
            raise HvdkitError(
                f"hvd.monitoring.Prometheus can't listen on port {self._port} of {self._address}: "
                f"{error.strerror}. Another job may use the port: give it another one, or 0 for "
                "any."
            ) from error
        host = f"[{self._address}]" if ":" in self._address else self._address
        self.url = f"http://{host}:{self._server[0].server_port}/metrics"

    def log(self, sample: Sample) -> None:
        """Show these figures from now on."""
        self._figures.take(sample)

    def alarm(self, alarm: Alarm) -> None:
        """Count it."""
        self._figures.count(alarm)

    def end(self) -> None:
        """Listen no more."""
        if self._server is None:
            return
        (server, thread), self._server, self.url = self._server, None, None
        server.shutdown()
        server.server_close()
        thread.join()
