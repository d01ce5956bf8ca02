"""The devices that a cluster has, and how fast each does what a training asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Rate:
    """FLOP/s of a device in one precision.

    Attributes:
        peak: of the data sheet; what the share of FLOPs that is used refers to.
        attainable: of a large matrix product, measured.
        sides: of square products by their side, where it was measured: small ones are slower.
    """

    peak: float
    attainable: float
    sides: Mapping[int, float] = field(default_factory=dict, hash=False)

    def of_product(self, operations: float) -> float:
        """FLOP/s of a product of so many operations: those of the square one that has as many."""
        if not self.sides:
            return self.attainable
        sides = sorted(self.sides)
        side = (operations / 2) ** (1 / 3)
        return float(np.interp(np.log(side), np.log(sides), [self.sides[each] for each in sides]))


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: such as "A100 SXM 80GB".
        rates: by the bits of what is computed with, 16 and 32.
        memory: bytes.
        bandwidth: bytes a second of its memory.
        watts: that it draws in training, with its part of the host; 0 where not known.
        price: of an hour; 0 where not known.
        elements: bytes a second that operations on single elements move; None where it was not
            measured.
        operation: seconds that each operation takes besides; None where it was not measured.
    """

    name: str
    rates: Mapping[int, Rate] = field(hash=False)
    memory: float
    bandwidth: float
    watts: float = 0.0
    price: float = 0.0
    elements: float | None = None
    operation: float | None = None

    def rate(self, bits: int) -> Rate:
        """Its FLOP/s in a precision.

        Raises:
            ValueError: it is not known.
        """
        if bits not in self.rates:
            raise ValueError(
                f"the cluster does not say how fast {self.name} computes with {bits} bits: "
                f"add {bits}-bit to its rates, or plan for another precision."
            )
        return self.rates[bits]


def slowest(devices: Sequence[Device]) -> Device:
    """A device that is no better than any of some: what a step that waits for all goes by."""
    return _combined(devices, min)


def average(devices: Sequence[Device], counts: Sequence[int]) -> Device:
    """A device as fast as some are on average: where each gets rows in proportion to its speed.

    Memory is the least of all.

    Args:
        devices: of different kinds.
        counts: how many there are of each.
    """

    def mean(values: Iterable[float]) -> float:
        return sum(v * n for v, n in zip(values, counts, strict=True)) / sum(counts)

    return _combined(devices, mean)


def _combined(devices: Sequence[Device], speed: Callable[[Iterable[float]], float]) -> Device:
    if len(devices) == 1:
        return devices[0]
    elements = [d.elements for d in devices if d.elements is not None]
    operations = [1 / d.operation for d in devices if d.operation]
    bits = set.intersection(*(set(device.rates) for device in devices))
    rates = {
        b: Rate(
            speed([device.rates[b].peak for device in devices]),
            speed([device.rates[b].attainable for device in devices]),
            {
                side: speed([device.rates[b].sides[side] for device in devices])
                for side in set.intersection(*(set(device.rates[b].sides) for device in devices))
            },
        )
        for b in bits
    }
    return Device(
        " and ".join(device.name for device in devices),
        rates,
        min(device.memory for device in devices),
        speed([device.bandwidth for device in devices]),
        elements=speed(elements) if len(elements) == len(devices) else None,
        operation=1 / speed(operations) if len(operations) == len(devices) else None,
    )
