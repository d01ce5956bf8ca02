"""What the machine, and the model on it, tell of a rank, as columns of its row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvdkit.monitoring.readings.flops import ModelFlops, model_flops
from hvdkit.monitoring.readings.memory import device_memory, host_memory
from hvdkit.monitoring.readings.peaks import peak_flops_of_rank
from hvdkit.monitoring.readings.power import power_of_rank
from hvdkit.monitoring.window import Column


class Machine:
    """The readings of a rank.

    Operations are counted where the peak of the devices is known, since counting traces the model
    once more.

    Args:
        model: the model that is trained.
        inputs: tells, after the first step, what the model is called with; None if nobody knows.
        reads_host: whether this rank reads the meters of its host.
        peak_flops: see `hvd.callbacks.Monitor`.
    """

    def __init__(
        self,
        model: Any,
        inputs: Callable[[], Any],
        *,
        reads_host: bool,
        peak_flops: float | None,
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._power = power_of_rank(reads_host=reads_host)
        self._peak = peak_flops or peak_flops_of_rank(model.compute_dtype)
        self._flops: ModelFlops | None = None

    def begin(self) -> None:
        """Count from here on."""
        if self._peak is not None and self._flops is None:
            inputs = self._inputs()
            unknown = ModelFlops(unknown="its inputs are not known")
            self._flops = unknown if inputs is None else model_flops(self._model, inputs)
        if self._power is not None:
            self._power.read()

    @property
    def unknown_flops(self) -> str:
        """Why the operations of the model are not known, though the peak is; "" where they are."""
        return "" if self._flops is None else self._flops.unknown

    def readings(self, rows: float, seconds: float) -> dict[Column, float]:
        """What is known of the steps since `begin`.

        Args:
            rows: how many rows this rank has trained on.
            seconds: how long its steps took.
        """
        of_row = None if self._flops is None else self._flops.per_row
        host, device = host_memory(), device_memory()
        drawn = None if self._power is None else self._power.read()
        found = {
            Column.HOST_MEMORY: host.now,
            Column.HOST_MEMORY_PEAK: host.peak,
            Column.DEVICE_MEMORY: None if device is None else device.now,
            Column.DEVICE_MEMORY_PEAK: None if device is None else device.peak,
            # The power of the time since then, which may hold a validation, too.
            Column.JOULES: None if drawn is None else drawn.watts * seconds,
            Column.FLOPS: None if of_row is None else of_row * rows,
            Column.PEAK_FLOPS: self._peak,
        }
        return {column: float(value) for column, value in found.items() if value is not None}
