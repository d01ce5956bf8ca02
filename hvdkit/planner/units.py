"""Quantities with their units, as people write them: "300 GB/s", "312 TFLOP/s", "80 GiB"."""

from __future__ import annotations

import math
import re

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_BYTES = {f"{prefix}B": size for prefix, size in {**_PREFIXES, **_BINARY}.items()}
_BITS = {f"{prefix}b": size / 8 for prefix, size in _PREFIXES.items()}

KINDS: dict[str, dict[str, float]] = {
    "a rate of operations": {f"{p}FLOP/s": size for p, size in _PREFIXES.items()},
    "a number of bytes": _BYTES,
    "a rate of bytes": {f"{unit}/s": size for unit, size in {**_BYTES, **_BITS}.items()},
    "a time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0, "h": 3600.0},
    "a power": {"W": 1.0, "kW": 1e3, "MW": 1e6},
    "a price of an hour": {"USD/h": 1.0, "EUR/h": 1.0},
    "a price of energy": {"USD/kWh": 1.0, "EUR/kWh": 1.0},
    "an emission": {"kg/kWh": 1.0, "g/kWh": 1e-3},
}
"""Units of each kind of quantity, in bytes, seconds, FLOP/s, watts, kg and currency."""

_EXAMPLES = {
    "a rate of operations": "312 TFLOP/s",
    "a number of bytes": "80 GiB",
    "a rate of bytes": "300 GB/s",
    "a time": "5 us",
    "a power": "400 W",
    "a price of an hour": "2.5 USD/h",
    "a price of energy": "0.12 USD/kWh",
    "an emission": "0.4 kg/kWh",
}
_QUANTITY = re.compile(r"\s*([-+]?[0-9][0-9_,]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?)\s*(\S*)\s*")


def quantity(text: object, kind: str) -> float:
    """The number that a text means.

    Args:
        text: a number and its unit.
        kind: what it is: a key of `KINDS`.

    Returns:
        In FLOP/s, bytes, bytes/s, seconds, watts, currency or kg.

    Raises:
        ValueError: it has no unit, or one of another kind, or is negative or not finite.

    Example:
        >>> quantity("312 TFLOP/s", "a rate of operations")
        312000000000000.0
    """
    units, example = KINDS[kind], _EXAMPLES[kind]
    found = _QUANTITY.fullmatch(str(text))
    if found is None:
        raise ValueError(f"{text!r} is not {kind}, such as {example}")
    number, unit = found.groups()
    if not unit:
        raise ValueError(f"{text!r} has no unit: {kind} is written as {example}")
    if unit not in units:
        raise ValueError(f"{text!r}: {unit} is no unit of {kind}, which is written as {example}")
    value = float(number.replace(",", "").replace("_", "")) * units[unit]
    if value < 0 or not math.isfinite(value):
        raise ValueError(f"{text!r} is negative or not finite")
    return value


def bytes_text(size: float) -> str:
    """Bytes for people, in binary units."""
    for unit, scale in reversed(_BINARY.items()):
        if size >= scale:
            return f"{size / scale:.3g} {unit}B"
    return f"{size:.0f} B"


def time_text(seconds: float) -> str:
    """Seconds for people, from µs to days."""
    for unit, scale in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3)):
        if seconds >= 2 * scale or (unit in ("s", "ms") and seconds >= scale):
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
