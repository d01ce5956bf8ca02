"""How busy NVIDIA's GPUs are (NVML, through the package nvidia-ml-py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from hvdkit.monitoring.readings.nvml import uuid_of

# NVML tells the share of time, up to a second long, in which a GPU ran something.
_SECONDS = 0.2


class GpuLoad:
    """Looks now and then at how busy some GPUs are, with all that runs on them.

    Args:
        nvml: the module.
        gpus: NVML's handles of them.
        clock: the time in seconds.
    """

    def __init__(
        self, nvml: Any, gpus: Sequence[Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._nvml = nvml
        self._gpus = list(gpus)
        self._clock = clock
        self._seen: list[float] = []
        self._looked = -_SECONDS

    @classmethod
    def open(cls, gpus: Sequence[int]) -> GpuLoad | None:
        """The load of some GPUs.

        Args:
            gpus: CUDA's numbers of them, see `GpuMeter.open`.

        Returns:
            None without GPUs, without nvidia-ml-py or a driver, or where one does not tell.
        """
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            found = [pynvml.nvmlDeviceGetHandleByUUID(uuid_of(gpu)) for gpu in gpus]
            for handle in found:
                pynvml.nvmlDeviceGetUtilizationRates(handle)
        except (pynvml.NVMLError, OSError, AttributeError):
            return None
        return cls(pynvml, found) if found else None

    def look(self) -> None:
        """Look, unless it was only just done."""
        now = self._clock()
        if now - self._looked < _SECONDS:
            return
        self._looked = now
        for gpu in self._gpus:
            self._seen.append(self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)

    @property
    def share(self) -> float | None:
        """The share of time in which they were busy, as far as was looked; None if it was not."""
        return sum(self._seen) / len(self._seen) if self._seen else None
