"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hvdkit.monitoring.sample import QUANTITIES, Sample

# What a step consists of, in the order in which it is shown.
PARTS = {
    "compute_seconds": "compute",
    "waiting_for_ranks_seconds": "waiting for ranks",
    "exchange_seconds": "exchange",
    "waiting_for_data_seconds": "waiting for data",
    "rest_seconds": "rest",
}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_OF_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def number(value: float) -> str:
    """A number with three or four digits: "0.4321", "1234", "16.4k", "nan"."""
    if not math.isfinite(value) or abs(value) < 9999.5:
        return f"{value:.4g}"
    factor, prefix = next(each for each in _PREFIXES if abs(value) >= 0.9995 * each[0])
    return f"{_three_digits(value / factor)}{prefix}"


def seconds(value: float) -> str:
    """A time: "251 ms", "2.5 s"."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def size(value: float) -> str:
    """An amount of memory: "3.2 GiB"."""
    for factor, unit in _OF_BYTES:
        if value >= factor:
            return f"{_three_digits(value / factor)} {unit}"
    return f"{value:.0f} B"


def shares(values: Mapping[str, float]) -> dict[str, float]:
    """The share that each known part has in a step, by its word; empty where none is known.

    Args:
        values: figures by name.
    """
    known = {word: values[name] for name, word in PARTS.items() if name in values}
    total = sum(known.values())
    return {word: value / total for word, value in known.items()} if total > 0 else {}


def logs_of(sample: Sample) -> dict[str, float]:
    """The logs of `fit` in a sample: what is no quantity of hvdkit's."""
    return {name: value for name, value in sample.values.items() if name not in QUANTITIES}


def line(sample: Sample) -> str:
    """A sample in one line."""
    values = sample.values
    said = [f"{name} {number(value)}" for name, value in logs_of(sample).items()]
    if not sample.steps:
        return f"epoch {sample.epoch}: {', '.join(said) or 'no logs'}"
    if "learning_rate" in values:
        said.append(f"learning rate {number(values['learning_rate'])}")
    for name, unit in (("rows_per_second", "rows/s"), ("tokens_per_second", "tokens/s")):
        if name in values:
            said.append(f"{number(values[name])} {unit}")
    if "step_seconds" in values:
        parts = [f"{word} {share:.0%}" for word, share in shares(values).items() if share >= 0.005]
        split = f" ({', '.join(parts)})" if parts else ""
        said.append(f"a step {seconds(values['step_seconds'])}{split}")
    if "host_memory_bytes" in values:
        said.append(f"memory {size(values['host_memory_bytes'])}")
    if "device_memory_bytes" in values:
        said.append(f"of devices {size(values['device_memory_bytes'])}")
    if "model_flops_share" in values:
        said.append(f"{values['model_flops_share']:.0%} of the peak FLOP/s")
    if "watts" in values:
        said.append(f"{number(values['watts'])} W")
    return f"step {sample.step}, epoch {sample.epoch}: {', '.join(said)}"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
