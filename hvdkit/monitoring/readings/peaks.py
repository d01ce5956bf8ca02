"""How many floating-point operations a second a GPU could do at most."""

from __future__ import annotations

import re
from typing import NamedTuple

import tensorflow as tf


class Peaks(NamedTuple):
    """The most of a GPU in 10^12 operations a second, dense; None where it has no units for it.

    Attributes:
        half: float16, summed up in float32.
        bfloat16: the same for bfloat16.
        tf32: float32 rounded to TensorFloat-32, TensorFlow's default from Ampere on.
        single: float32.
    """

    half: float
    bfloat16: float | None
    tf32: float | None
    single: float


# By the name that a GPU's driver gives it. From NVIDIA's data sheets, and its papers on Hopper (for
# H100), on GA102 (for the 3090) and on Ada (for the 4090). What a data sheet gives "with sparsity",
# where half of the weights are zeros, is halved. The plain float32 of the A30 and of the NVL cards
# is reckoned from their cores and clocks, and was found in no second place.
_KNOWN: tuple[tuple[str, Peaks], ...] = (
    (r"Tesla V100S-PCIE-\d+GB", Peaks(130, None, None, 16.4)),
    (r"Tesla V100-PCIE-\d+GB", Peaks(112, None, None, 14.0)),
    (r"Tesla V100-SXM2-\d+GB", Peaks(125, None, None, 15.7)),
    (r"(Tesla|NVIDIA) T4", Peaks(65, None, None, 8.1)),
    (r"(NVIDIA )?A100-(SXM4|PCIE)-\d+GB|NVIDIA A100 80GB PCIe", Peaks(312, 312, 156, 19.5)),
    (r"NVIDIA A30", Peaks(165, 165, 82, 10.3)),
    (r"NVIDIA A40", Peaks(149.7, 149.7, 74.8, 37.4)),
    (r"NVIDIA A10", Peaks(125, 125, 62.5, 31.2)),
    (r"NVIDIA L4", Peaks(121, 121, 60, 30.3)),
    (r"NVIDIA L40S", Peaks(362, 362, 183, 91.6)),
    (r"NVIDIA H100 80GB HBM3", Peaks(989.4, 989.4, 494.7, 66.9)),
    (r"NVIDIA H100 PCIe", Peaks(756, 756, 378, 51.2)),
    (r"NVIDIA H100 NVL", Peaks(835.5, 835.5, 417.5, 60)),
    (r"NVIDIA H200", Peaks(989.4, 989.4, 494.7, 66.9)),
    (r"NVIDIA H200 NVL", Peaks(835.5, 835.5, 417.5, 60)),
    (r"NVIDIA B200", Peaks(2250, 2250, 1100, 75)),
    (r"(NVIDIA )?GeForce RTX 3090", Peaks(71, 71, 35.6, 35.6)),
    (r"NVIDIA GeForce RTX 4090", Peaks(165.2, 165.2, 82.6, 82.6)),
)


def peak_flops(device_name: str, dtype: str, *, tf32: bool = True) -> float | None:
    """The most floating-point operations a second of a GPU, by its data sheet.

    Args:
        device_name: what its driver calls it, such as "NVIDIA A100-SXM4-80GB".
        dtype: what is computed in, such as "bfloat16": a layer's `compute_dtype`.
        tf32: whether float32 may be rounded to TensorFloat-32 in products.

    Returns:
        None of a GPU that is not in the table, such as a slice of one (MIG), or of a type that it
        has no units for.

    Example:
        >>> peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16")
        312000000000000.0
    """
    peaks = next((peaks for name, peaks in _KNOWN if re.fullmatch(name, device_name)), None)
    if peaks is None:
        return None
    single = (peaks.tf32 if tf32 else None) or peaks.single
    by_type = {"float16": peaks.half, "bfloat16": peaks.bfloat16, "float32": single}
    found = by_type.get(dtype)
    return None if found is None else found * 1e12


def peak_flops_of_rank(dtype: str) -> float | None:
    """The most floating-point operations a second of all GPUs of this process together.

    Args:
        dtype: what is computed in.

    Returns:
        None without GPUs, and where one of them is not known: the most of a CPU depends on its
        clock, and its maker does not tell it.
    """
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    names = [
        tf.config.experimental.get_device_details(device).get("device_name", "")
        for device in tf.config.get_visible_devices("GPU")
    ]
    peaks = [peak_flops(name, dtype, tf32=tf32) for name in names]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if known and len(known) == len(peaks) else None
