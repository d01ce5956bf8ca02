"""The meters in NVIDIA's GPUs (NVML, through the package nvidia-ml-py)."""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass
class _Gpu:
    """A GPU, and what was last read of it.

    Attributes:
        handle: NVML's.
        last: its counter in millijoules, or its power in milliwatts.
        has_counter: whether it has a counter; before Volta it has none.
    """

    handle: Any
    last: int
    has_counter: bool


class GpuMeter:
    """Counts the energy of GPUs, with all that runs on them.

    A GPU without a counter tells its power, which is taken for that of half of the time before and
    after.

    Args:
        nvml: the module.
        gpus: the GPUs.

    Attributes:
        counts: what it counts the energy of, in words.
    """

    counts = "GPUs"

    def __init__(self, nvml: Any, gpus: Sequence[_Gpu]) -> None:
        self._nvml = nvml
        self._gpus = list(gpus)

    @classmethod
    def open(cls, gpus: Sequence[int]) -> GpuMeter | None:
        """The meter of some GPUs.

        Args:
            gpus: CUDA's numbers of them, which `CUDA_VISIBLE_DEVICES` changes; TensorFlow has
                them in the names of physical devices.

        Returns:
            None without nvidia-ml-py (which comes with `hvdkit[gpu]`) or a driver, or where one of
            the GPUs does not tell, such as a slice of one (MIG).
        """
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            found = [_opened(pynvml, _uuid_of(gpu)) for gpu in gpus]
        except (pynvml.NVMLError, OSError, AttributeError):
            return None
        return cls(pynvml, found) if found else None

    def joules(self, seconds: float) -> float | None:
        """The energy since the call before, or since it was opened.

        Args:
            seconds: how long that is.

        Returns:
            None where a GPU does not tell any more.
        """
        total = 0.0
        for gpu in self._gpus:
            try:
                now = _read(self._nvml, gpu.handle, gpu.has_counter)
            except self._nvml.NVMLError:
                return None
            last, gpu.last = gpu.last, now
            if not gpu.has_counter:
                total += (last + now) / 2 * seconds
            elif now < last:  # its driver was loaded again
                return None
            else:
                total += now - last
        return total / 1000


def _opened(nvml: Any, name: str) -> _Gpu:
    handle = nvml.nvmlDeviceGetHandleByUUID(name)
    try:
        return _Gpu(handle, _read(nvml, handle, True), True)
    except nvml.NVMLError_NotSupported:
        return _Gpu(handle, _read(nvml, handle, False), False)


def _read(nvml: Any, handle: Any, has_counter: bool) -> int:
    if has_counter:
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    return int(nvml.nvmlDeviceGetPowerUsage(handle))


def _uuid_of(gpu: int) -> str:
    """What NVML calls a GPU: its own numbers are others than CUDA's.

    Raises:
        OSError: there is no driver, or no such GPU.
    """
    cuda = ctypes.CDLL("libcuda.so.1")
    device, name = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    for call, *arguments in (
        (cuda.cuInit, 0),
        (cuda.cuDeviceGet, ctypes.byref(device), gpu),
        (cuda.cuDeviceGetUuid_v2, name, device),
    ):
        status = call(*arguments)
        if status != 0:
            raise OSError(f"CUDA's driver does not know GPU {gpu} (error {status})")
    return f"GPU-{uuid.UUID(bytes=bytes(name))}"


def visible_gpus() -> list[int]:
    """CUDA's numbers of the GPUs that TensorFlow may use in this process."""
    devices = tf.config.get_visible_devices("GPU")
    return [int(device.name.rpartition(":")[2]) for device in devices]
