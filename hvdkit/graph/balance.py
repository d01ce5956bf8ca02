"""Cutting a sequence of layers into parts of about the same time, by dynamic programming.

The problem is the linear partition of e.g. PipeDream (Narayanan et al., 2019,
https://arxiv.org/abs/1806.03377, section 3.2), with a limit of memory for each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

Range = tuple[int, int]
_UNREACHED = (float("inf"), float("inf"))


def balance(
    costs: Sequence[float],
    sizes: Sequence[float],
    parts: int,
    capacities: Sequence[float | None] | None = None,
    *,
    names: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
) -> list[Range]:
    """Cut a sequence of blocks into parts so that the slowest of them is as fast as can be.

    Of equally fast divisions it takes the one whose largest part needs less memory.

    Args:
        costs: time of each block, in any unit.
        sizes: memory that each block needs where it lies, in bytes.
        parts: number of parts; each gets a block or more.
        capacities: memory of the device of each part, in bytes; None for no limit.
        names: what errors call the blocks.
        devices: what errors call where the parts lie.

    Returns:
        For each part its first block and the one after its last.

    Raises:
        ValueError: there are fewer blocks than parts, or a block does not fit where it has to lie.

    Example:
        >>> balance([1, 1, 1, 3], [8, 8, 8, 8], parts=2)
        [(0, 3), (3, 4)]
    """
    count = len(costs)
    limits = [float("inf") if c is None else c for c in capacities or [None] * parts]
    if parts < 1 or len(limits) != parts or len(sizes) != count:
        raise ValueError(
            f"{count} times, {len(sizes)} sizes and {len(limits)} capacities do not go with "
            f"{parts} parts: one time and size a block, one capacity a part, and a part or more."
        )
    if count < parts:
        raise ValueError(
            f"{parts} parts, but the model can be cut into {count} at most: layers that share "
            f"weights stay together. Ask for {count} or fewer."
        )
    time, memory = _sums(costs), _sums(sizes)
    # best[i]: the slowest and the largest part of the first i blocks; starts: where its last began.
    best = [(0.0, 0.0), *[_UNREACHED] * count]
    starts: list[list[int]] = []
    for part in range(parts):
        best, start = _with_one_more_part(best, time, memory, limits[part])
        starts.append(start)
    if best[count] == _UNREACHED:
        raise ValueError(_what_does_not_fit(sizes, limits, names, devices))
    return _ranges(starts, count)


def _with_one_more_part(
    best: list[tuple[float, float]], time: list[float], memory: list[float], limit: float
) -> tuple[list[tuple[float, float]], list[int]]:
    count = len(best) - 1
    longer, starts = [_UNREACHED] * (count + 1), [0] * (count + 1)
    for stop in range(1, count + 1):
        for start in range(stop):
            held = memory[stop] - memory[start]
            if best[start] == _UNREACHED or held > limit:
                continue
            slowest, largest = best[start]
            value = (max(slowest, time[stop] - time[start]), max(largest, held))
            if value < longer[stop]:
                longer[stop], starts[stop] = value, start
    return longer, starts


def _ranges(starts: list[list[int]], stop: int) -> list[Range]:
    ranges: list[Range] = []
    for start in reversed(starts):
        ranges.append((start[stop], stop))
        stop = start[stop]
    return ranges[::-1]


def _sums(values: Sequence[float]) -> list[float]:
    return list(accumulate(values, initial=0.0))


def _what_does_not_fit(
    sizes: Sequence[float],
    limits: Sequence[float],
    names: Sequence[str] | None,
    devices: Sequence[str] | None,
) -> str:
    """Fill one device after the other as far as it goes, and name what is left over."""
    names = names or [f"block {i}" for i in range(len(sizes))]
    devices = devices or [f"part {i}" for i in range(len(limits))]
    block = 0
    for device, limit in zip(devices, limits, strict=True):
        first, held = block, 0.0
        while block < len(sizes) and held + sizes[block] <= limit:
            held += sizes[block]
            block += 1
        if block == first and block < len(sizes):
            return (
                f"{names[block]} does not fit on {device}: it needs {size_text(sizes[block])}, and "
                f"there are {size_text(limit)}. Use a smaller batch or layer, or a larger device."
            )
    if block == len(sizes):  # more devices than blocks that these can share
        return (
            f"the layers fit on fewer than {len(limits)} devices only, as some of them are too "
            "small to begin with a later layer. Name fewer devices, or order them by memory."
        )
    return (
        f"the model does not fit on {', '.join(devices)}: filled one after the other they hold "
        f"the layers before {names[block]}, and {size_text(sum(sizes[block:]))} are left over. "
        "Use more devices, or a smaller batch or model."
    )


def size_text(size: float) -> str:
    """A number of bytes for people, in powers of 1024."""
    value, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
