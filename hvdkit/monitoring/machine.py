"""What the machine tells of a rank, as columns of its row."""

from __future__ import annotations

from typing import Any

import psutil

from hvdkit.monitoring.window import Column


class Machine:
    def __init__(self, model: Any, first_on_host: bool, peak_flops: float | None) -> None:
        self._process = psutil.Process()

    def begin(self) -> None:
        pass

    def readings(self, rows: float) -> dict[Column, float]:
        return {Column.HOST_MEMORY: float(self._process.memory_info().rss)}
