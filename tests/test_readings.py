"""Readings of the machine, and the operations of models, against what they must be."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from hvdkit.monitoring.readings import memory
from hvdkit.monitoring.readings.flops import ModelFlops, model_flops
from hvdkit.monitoring.readings.memory import Memory, device_memory, host_memory
from hvdkit.monitoring.readings.nvml import GpuMeter, visible_gpus
from hvdkit.monitoring.readings.peaks import peak_flops, peak_flops_of_rank
from hvdkit.monitoring.readings.power import Drawn, Power, power_of_rank
from hvdkit.monitoring.readings.products import product_of
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


# Floating-point operations


def counted(inputs: Any, outputs: Any, *, frozen: bool = False) -> ModelFlops:
    model = keras.Model(inputs, outputs)
    model.trainable = not frozen
    specs = [tf.TensorSpec((ROWS, *x.shape[1:]), x.dtype) for x in model.inputs]
    return model_flops(model, specs[0] if len(specs) == 1 else specs)


def of(layer: Any, shape: tuple[int, ...], *, calls: int = 1) -> ModelFlops:
    inputs = keras.Input(shape)
    return counted(inputs, layer(*[inputs] * calls))


@pytest.mark.parametrize(
    ("layer", "shape", "multiplications"),
    [
        (lambda: layers.Dense(20), (10,), 200),
        (lambda: layers.Dense(20), (3, 10), 600),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 5)), (3, 10), 600),
        (lambda: layers.Conv1D(3, 3, padding="causal"), (9, 2), 9 * 18),
        (lambda: layers.Conv2D(8, 3, strides=2, padding="same"), (8, 8, 4), 16 * 9 * 32),
        (lambda: layers.Conv2D(8, 3, groups=2), (8, 8, 4), 36 * 9 * 16),
        (lambda: layers.Conv2D(8, 3, dilation_rate=2), (8, 8, 4), 16 * 9 * 32),
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 4), 36 * 9 * 8),
        (lambda: layers.SeparableConv2D(8, 3), (8, 8, 4), 36 * 9 * 4 + 36 * 32),
        (lambda: layers.Conv2DTranspose(6, 3, strides=2), (8, 8, 4), 64 * 9 * 24),
        (lambda: layers.Conv3D(3, 3), (6, 6, 6, 2), 64 * 27 * 6),
        (lambda: layers.LSTM(3), (7, 5), 7 * 12 * (5 + 3)),
        (lambda: layers.LSTM(3, unroll=True), (7, 5), 7 * 12 * (5 + 3)),
        (lambda: layers.Bidirectional(layers.LSTM(3)), (7, 5), 2 * 7 * 12 * (5 + 3)),
        (lambda: layers.GRU(3, return_sequences=True), (7, 5), 7 * 9 * (5 + 3)),
        (lambda: layers.BatchNormalization(), (10,), 0),
        (lambda: layers.Dropout(0.5), (10,), 0),
    ],
)
def test_operations_of_layers(
    layer: Callable[[], Any], shape: tuple[int, ...], multiplications: int
) -> None:
    assert of(layer(), shape).forward == 2 * multiplications


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_operations_of_attention(policy: str) -> None:
    length, width, heads, size = 9, 16, 4, 5
    projections = 4 * length * width * heads * size
    attention = 2 * heads * length * length * size
    layer = layers.MultiHeadAttention(heads, size, dtype=policy)
    flops = of(layer, (length, width), calls=2)
    assert flops.forward == 2 * (projections + attention)
    # The input of the first three projections needs no gradient.
    assert flops.per_row == 3 * flops.forward - 2 * projections * 3 / 4


def test_operations_of_a_gpt() -> None:
    length, width, heads, blocks, words = 16, 24, 3, 2, 50
    tokens = keras.Input((length,), dtype="int32")
    x = layers.Embedding(words, width)(tokens)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(heads, width // heads)
        x = x + attention(y, y, use_causal_mask=True)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(y))
    flops = counted(tokens, layers.Dense(words)(layers.LayerNormalization()(x)))
    weights = blocks * 12 * width * width + width * words
    attended = blocks * 2 * length * width
    # Appendix B of PaLM: 6 N + 12 L H Q T for a token.
    assert flops.per_row == length * 6 * (weights + attended)
    assert flops.forward is not None
    assert flops.per_row == 3 * flops.forward


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "published", "digit"), [("MobileNetV2", 300e6, 1e6), ("ResNet50", 3.8e9, 0.1e9)]
)
def test_operations_of_published_models(name: str, published: float, digit: float) -> None:
    """Sandler et al., 2018, table 4: 300M multiplications; He et al., 2015, table 1: 3.8e9."""
    model = getattr(keras.applications, name)(weights=None)
    flops = model_flops(model, tf.TensorSpec((1, 224, 224, 3)))
    assert flops.forward is not None
    assert flops.per_row is not None
    assert abs(flops.forward / 2 - published) < digit
    assert 2.95 < flops.per_row / flops.forward < 3


def test_what_is_frozen_needs_less() -> None:
    def of_frozen(*frozen: int) -> tuple[float | None, float | None]:
        stack = [layers.Dense(10, trainable=i not in frozen) for i in range(3)]
        model = keras.Sequential([keras.Input((10,)), *stack])
        flops = model_flops(model, np.zeros((ROWS, 10)))
        return flops.forward, flops.per_row

    assert of_frozen() == (600, 600 + 200 + 400 + 400)
    assert of_frozen(0, 1) == (600, 600 + 200)
    assert of_frozen(1, 2) == (600, 600 + 200 + 200 + 200)
    assert of_frozen(0, 1, 2) == (600, 600)


class Product(layers.Layer):
    """Multiplies with a square matrix, somehow."""

    def __init__(self, how: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.how = how

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1], shape[-1]))

    def call(self, x: Any) -> Any:
        return self.how(x, self.w)


def loop(x: Any, w: Any) -> Any:
    return ops.fori_loop(2, 9, lambda _, s: ops.matmul(s, w), x)


def mapped(x: Any, w: Any) -> Any:
    return tf.map_fn(lambda row: tf.matmul(row[None], w)[0], x)


def twice(x: Any, w: Any) -> Any:
    return ops.matmul(ops.matmul(x, w), w)


@pytest.mark.parametrize(
    ("how", "forward", "backward"),
    [
        (loop, 7, 14),
        (mapped, 1, 1),
        (twice, 2, 3),
        (keras.remat(twice), 2, 3),
        (lambda x, w: ops.matmul(ops.stop_gradient(ops.matmul(x, w)), w), 2, 1),
        (lambda x, w: ops.scan(lambda c, _: (ops.matmul(c, w), c), x, length=4)[0], 4, 8),
        (lambda x, w: ops.cond(ops.sum(x) > 0, lambda: x @ w, lambda: 2 * x @ w), 1, 1),
        (lambda x, w: tf.einsum("...a,ab->...b", x, w), 1, 1),
        (lambda x, w: tf.einsum("ij,jk,kl->il", x, w, w), 2, None),
        (lambda x, w: tf.einsum("ij->ji", tf.einsum("ij,jk->ki", x, w)), 1, 1),
    ],
)
def test_operations_of_graphs(how: Any, forward: int, backward: int | None) -> None:
    flops = of(Product(how), (6,))
    one = 2 * 6 * 6
    assert flops.forward == forward * one, flops.unknown
    if backward is not None:
        assert flops.per_row == (forward + backward) * one


def python(x: Any, w: Any) -> Any:
    return tf.ensure_shape(tf.numpy_function(np.matmul, [x, w], tf.float32), (None, 6))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (
            lambda x, w: ops.while_loop(
                lambda s: ops.sum(s) < 5, lambda s: (ops.matmul(s, w),), (x,)
            )[0],
            "how often the loop",
        ),
        (
            lambda x, w: ops.cond(ops.sum(x) > 0, lambda: ops.matmul(x, w), lambda: x),
            "take different numbers",
        ),
        (python, "nobody counts those of PyFunc"),
        (lambda x, w: ops.transpose(ops.solve(w, ops.transpose(x))), "those of MatrixSolve"),
        (lambda x, w: tf.math.real(tf.signal.fft(tf.cast(x @ w, tf.complex64))), "those of FFT"),
    ],
)
def test_operations_that_nobody_can_count_are_not_guessed(how: Any, why: str) -> None:
    flops = of(Product(how), (6,))
    assert flops.per_row is None
    assert flops.forward is None
    assert why in flops.unknown


class OwnStep(keras.Model):
    def call(self, x: Any) -> Any:
        return x

    def train_step(self, data: Any) -> Any:
        return {}


class OwnLoss(keras.Sequential):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


class Partly(keras.Sequential):
    def build(self, shape: Any) -> None:
        super().build(shape)
        self.unused = self.add_weight(shape=(2,), name="unused")


def test_models_and_inputs_that_can_not_be_counted() -> None:
    plain = keras.Sequential([keras.Input((10,)), layers.Dense(3)])
    stack = [keras.Input((10,)), layers.Dense(3)]
    own = OwnStep()
    own.build((None, 10))
    given = np.zeros((ROWS, 10), "float32")
    for model, inputs, why in (
        (keras.Sequential([layers.Dense(3)]), given, "has no weights yet"),
        (own, given, "a train_step of its own"),
        (OwnLoss(stack), given, "a compute_loss of its own"),
        (Partly([keras.Input((10,)), layers.Dense(3)]), given, "does not read partly/unused"),
        (plain, given[:, :9], "the model can't be called so: ValueError: "),
        (plain, tf.TensorSpec((None, 10)), "no fixed shape with rows: (None, 10)"),
        (plain, given[:0], "no fixed shape with rows: (0, 10)"),
        (plain, [given, given[:2]], "do not have the same rows"),
        (plain, "text", "an input is no array: str"),
        (plain, tf.ragged.constant([[1.0], [2.0, 3.0]]), "no fixed shape"),
        (plain, tf.sparse.from_dense(given), "no fixed shape"),
    ):
        flops = model_flops(model, inputs)
        assert flops.per_row is None
        assert why in flops.unknown


def test_counting_changes_nothing() -> None:
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6), layers.BatchNormalization(), layers.Dropout(0.5)]
    )
    before = [variable.numpy() for variable in model.variables]
    assert model_flops(model, np.ones((ROWS, 6))).per_row == 144
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    model.compile("sgd", "mse")
    model.fit(np.ones((ROWS, 6)), np.ones((ROWS, 6)), verbose=0)


def test_recurrent_layers_of_gpus() -> None:
    steps, rows, size, units = 7, 4, 5, 3
    weights = 4 * units * (size + units)
    with tf.Graph().as_default():
        state = tf.zeros((1, rows, units))
        made = tf.raw_ops.CudnnRNNV3(
            input=tf.zeros((steps, rows, size)),
            input_h=state,
            input_c=state,
            params=tf.zeros((weights + 8 * units,)),
            sequence_lengths=tf.fill([rows], steps),
            rnn_mode="lstm",
        )
    product = product_of(made.output.op)
    assert product is not None
    assert product.flops == 2 * steps * rows * weights


# The most that a GPU can do


@pytest.mark.parametrize(
    ("name", "dtype", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("A100-SXM4-40GB", "float16", 312),
        ("NVIDIA A100 80GB PCIe", "float32", 156),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H200", "bfloat16", 989.4),
        ("NVIDIA B200", "bfloat16", 2250),
        ("Tesla V100-SXM2-16GB", "float16", 125),
        ("Tesla V100-SXM2-16GB", "float32", 15.7),
        ("Tesla T4", "float16", 65),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA L40S", "bfloat16", 362),
        ("NVIDIA GeForce RTX 4090", "float16", 165.2),
    ],
)
def test_peaks_of_data_sheets(name: str, dtype: str, tera: float) -> None:
    assert peak_flops(name, dtype) == pytest.approx(tera * 1e12)


def test_peaks_without_tf32() -> None:
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32", tf32=False) == pytest.approx(19.5e12)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("Tesla V100-SXM2-16GB", "bfloat16"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16"),
        ("NVIDIA A10G", "bfloat16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "float16"),
        ("NVIDIA GeForce RTX 3090 Ti", "float16"),
        ("NVIDIA H100 80GB HBM3", "float64"),
        ("NVIDIA H20", "bfloat16"),
        ("", "float32"),
    ],
)
def test_peaks_that_nobody_knows_are_not_guessed(name: str, dtype: str) -> None:
    assert peak_flops(name, dtype) is None


@needs_gpu
@pytest.mark.gpu
def test_the_peak_of_a_gpu() -> None:
    found = peak_flops_of_rank("float16")
    assert found is None or found > 1e13


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
