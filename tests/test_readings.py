"""Readings of the machine: memory, and energy from meters that are made of files."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from hvdkit.monitoring.readings import memory
from hvdkit.monitoring.readings.memory import Memory, device_memory, host_memory
from hvdkit.monitoring.readings.nvml import GpuMeter, visible_gpus
from hvdkit.monitoring.readings.peaks import peak_flops_of_rank
from hvdkit.monitoring.readings.power import Drawn, Power, power_of_rank
from hvdkit.monitoring.readings.rapl import CpuMeter

pytestmark = pytest.mark.quick

ROWS = 4
gpu_is_here = bool(tf.config.list_physical_devices("GPU"))
needs_gpu = pytest.mark.skipif(not gpu_is_here, reason="needs a GPU that TensorFlow sees")

# Memory


def test_memory_of_this_process() -> None:
    size = 50_000_000
    before = host_memory()
    block = np.ones(size, np.uint8)
    within = host_memory()
    assert within.now > before.now + 0.9 * size
    del block
    after = host_memory()
    assert after.now < within.now - 0.9 * size
    assert after.peak is not None
    assert after.peak >= 0.99 * within.now


# What reads the memory alone, since TensorFlow would need more than the process that starts this.
PEAKS = """
block = bytearray(10_000_000)
del block
print(host_memory().peak)
"""
STARTS_ANOTHER = """
import subprocess, sys
block = bytearray(b"1") * 300_000_000
subprocess.run([sys.executable, sys.argv[1]], close_fds=False, check=True)
"""


def test_the_most_memory_is_not_that_of_whoever_started_the_process(tmp_path: Path) -> None:
    source = Path(memory.__file__).read_text().replace("import tensorflow as tf\n", "")
    (tmp_path / "small.py").write_text(source + PEAKS)
    (tmp_path / "large.py").write_text(STARTS_ANOTHER)
    command = [sys.executable, str(tmp_path / "large.py"), str(tmp_path / "small.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert 15e6 < int(done.stdout) < 150e6


def test_memory_where_linux_tells_nothing(tmp_path: Path) -> None:
    found = host_memory(tmp_path / "none")
    assert found.peak is None
    assert found.now > 50e6
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t 2048 kB\nVmHWM:\t 4096 kB\n")
    assert host_memory(tmp_path / "status") == Memory(2 << 20, 4 << 20)


@pytest.mark.skipif(gpu_is_here, reason="TensorFlow sees a GPU here")
def test_without_a_gpu_nothing_is_said_of_one() -> None:
    assert device_memory() is None
    assert visible_gpus() == []
    assert GpuMeter.open([0]) is None
    assert peak_flops_of_rank("float32") is None


@needs_gpu
@pytest.mark.gpu
def test_memory_of_a_gpu() -> None:
    block = tf.random.normal((1 << 20,))
    found = device_memory()
    assert found is not None
    assert found.peak is not None
    assert found.peak >= found.now >= block.shape[0] * 4


# Energy


class Powercap:
    """A folder as Linux shows the meters of processors, whose counters are set by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def zone(self, zone: str, name: str, microjoules: int, turn: int = 262_143_328_850) -> None:
        (self.folder / zone).mkdir()
        (self.folder / zone / "name").write_text(f"{name}\n")
        (self.folder / zone / "max_energy_range_uj").write_text(f"{turn}\n")
        self.set(zone, microjoules)

    def set(self, zone: str, microjoules: int) -> None:
        (self.folder / zone / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    (tmp_path / "intel-rapl").mkdir()  # the driver itself has no counter
    (tmp_path / "intel-rapl" / "enabled").write_text("1\n")
    return Powercap(tmp_path)


def opened(powercap: Powercap) -> CpuMeter:
    meter = CpuMeter.open(str(powercap.folder))
    assert meter is not None
    return meter


def test_packages_and_memory_add_up_and_what_they_hold_does_not(powercap: Powercap) -> None:
    for package in (0, 1):
        powercap.zone(f"intel-rapl:{package}", f"package-{package}", 1_000_000)
        powercap.zone(f"intel-rapl:{package}:0", "core", 1_000_000)
        powercap.zone(f"intel-rapl:{package}:1", "uncore", 1_000_000)
        powercap.zone(f"intel-rapl:{package}:2", "dram", 1_000_000)
        powercap.zone(f"intel-rapl-mmio:{package}", f"package-{package}", 1_000_000)
    powercap.zone("intel-rapl:2", "psys", 1_000_000)
    meter = opened(powercap)
    assert meter.counts == "processors and memory"
    for i, zone in enumerate(sorted(path.name for path in powercap.folder.glob("*:*"))):
        powercap.set(zone, 1_000_000 + 10**i)
    powercap.set("intel-rapl:0", 3_000_000)
    powercap.set("intel-rapl:1", 5_000_000)
    powercap.set("intel-rapl:0:2", 1_500_000)
    powercap.set("intel-rapl:1:2", 1_250_000)
    assert meter.joules(1.0) == pytest.approx(2 + 4 + 0.5 + 0.25)


def test_a_processor_without_a_meter_of_memory(powercap: Powercap) -> None:
    powercap.zone("intel-rapl:0", "package-0-die-0", 0)
    powercap.zone("intel-rapl:0:0", "core", 0)
    powercap.zone("intel-rapl:1", "package-0-die-1", 0)
    powercap.zone("intel-rapl:1:0", "dram", 0)  # of one die only
    meter = opened(powercap)
    assert meter.counts == "processors"
    for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:1:0"):
        powercap.set(zone, 7_000_000)
    assert meter.joules(1.0) == pytest.approx(14)


def test_only_the_mmio_driver(powercap: Powercap) -> None:
    powercap.zone("intel-rapl-mmio:0", "package-0", 0)
    meter = opened(powercap)
    powercap.set("intel-rapl-mmio:0", 3_000_000)
    assert meter.joules(1.0) == pytest.approx(3)


def test_a_counter_that_goes_round(powercap: Powercap) -> None:
    powercap.zone("intel-rapl:0", "package-0", 65_000_000_000, turn=65_532_610_987)
    meter = opened(powercap)
    powercap.set("intel-rapl:0", 100_000_000)
    assert meter.joules(10.0) == pytest.approx(632.610987)
    powercap.set("intel-rapl:0", 150_000_000)
    assert meter.joules(1.0) == pytest.approx(50)


def test_a_counter_that_may_have_gone_round_twice_tells_nothing(powercap: Powercap) -> None:
    powercap.zone("intel-rapl:0", "package-0", 0, turn=65_532_610_987)
    meter = opened(powercap)
    powercap.set("intel-rapl:0", 100_000_000)
    assert meter.joules(66.0) is None
    powercap.set("intel-rapl:0", 150_000_000)
    assert meter.joules(1.0) == pytest.approx(50)  # since the reading before


def test_meters_that_tell_nothing(powercap: Powercap) -> None:
    folder = str(powercap.folder)
    assert CpuMeter.open(folder + "/none") is None
    assert CpuMeter.open(folder) is None
    powercap.zone("intel-rapl:0", "psys", 0)
    assert CpuMeter.open(folder) is None
    powercap.zone("intel-rapl:1", "package-0", 0)
    powercap.zone("intel-rapl:2", "package-1", 0)
    meter = opened(powercap)
    assert meter.joules(1.0) is None  # it stands still
    # As for anybody but root; a directory, since these tests may be run by root.
    (powercap.folder / "intel-rapl:2" / "energy_uj").unlink()
    (powercap.folder / "intel-rapl:2" / "energy_uj").mkdir()
    assert meter.joules(1.0) is None
    assert CpuMeter.open(folder) is None  # one package would be taken for two


class Counts:
    """A meter that tells what it is told."""

    def __init__(self, *joules: float | None) -> None:
        self.counts = "something"
        self._joules = list(joules)

    def joules(self, seconds: float) -> float | None:
        return self._joules.pop(0)


def test_power_of_several_meters() -> None:
    power = Power([Counts(1.0, 1.0, 2.0), Counts(4.0, None, 8.0)])
    assert power.counts == ("something", "something")
    first = power.read()
    assert first is not None
    assert first.joules == 5.0
    assert power.read() is None  # one of them does not tell
    time.sleep(0.01)
    third = power.read()
    assert third is not None
    assert third.joules == 10.0
    assert 0.01 <= third.seconds < 10
    assert Drawn(10.0, 4.0).watts == 2.5


def test_one_rank_of_a_host_reads_its_meter(powercap: Powercap) -> None:
    powercap.zone("intel-rapl:0", "package-0", 0)
    folder = str(powercap.folder)
    assert power_of_rank(reads_host=False, gpus=[], powercap=folder) is None
    power = power_of_rank(reads_host=True, gpus=[], powercap=folder)
    assert power is not None
    assert power.counts == ("processors",)
    powercap.set("intel-rapl:0", 2_000_000)
    drawn = power.read()
    assert drawn is not None
    assert drawn.joules == pytest.approx(2)
    assert drawn.watts == pytest.approx(2 / drawn.seconds)


@needs_gpu
@pytest.mark.gpu
def test_energy_of_a_gpu() -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    power = power_of_rank(reads_host=False)
    assert power is not None
    assert power.counts == ("GPUs",)
    matrix = tf.ones((4096, 4096))
    until = time.monotonic() + 1
    while time.monotonic() < until:
        tf.matmul(matrix, matrix).numpy()
    drawn = power.read()
    assert drawn is not None
    assert 20 < drawn.watts < 1500


def test_readings_are_cheap(powercap: Powercap) -> None:
    """Well below a millisecond; a hundred times that fails."""
    powercap.zone("intel-rapl:0", "package-0", 0)
    power = power_of_rank(reads_host=True, gpus=[], powercap=str(powercap.folder))
    assert power is not None
    begun = time.perf_counter()
    for _ in range(100):
        host_memory()
        device_memory()
        power.read()
    assert time.perf_counter() - begun < 5
