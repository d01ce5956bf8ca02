"""The most that GPUs can do, by their data sheets."""

from __future__ import annotations

import pytest
import tensorflow as tf

from hvdkit.monitoring.readings.peaks import peak_flops, peak_flops_of_rank

pytestmark = pytest.mark.quick

gpu_is_here = bool(tf.config.list_physical_devices("GPU"))
needs_gpu = pytest.mark.skipif(not gpu_is_here, reason="needs a GPU that TensorFlow sees")


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
