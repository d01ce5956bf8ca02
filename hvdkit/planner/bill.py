"""What a training takes: time, energy, CO2, money."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.planner.cluster import Cluster, Power


@dataclass(frozen=True)
class Bill:
    """What a training takes.

    Attributes:
        seconds: from its begin to its end.
        kwh: of the devices, and of what the site needs besides; 0 where watts are not known.
        kg_co2: 0 where the emission is not known.
        money: for devices and energy; 0 where no price is known.
    """

    seconds: float
    kwh: float
    kg_co2: float
    money: float

    @property
    def days(self) -> float:
        """From its begin to its end."""
        return self.seconds / 86400


def bill_of(seconds: float, devices: int, watts: float, price: float, power: Power) -> Bill:
    """The bill of a training.

    Args:
        seconds: that it takes.
        devices: that it uses.
        watts: of each.
        price: of an hour of each.
        power: energy at the place.

    Example:
        >>> bill_of(14.8 * 86400, 10_000, 330, 0, Power(pue=1.1)).kwh / 1000  # GPT-3, in MWh
        1289.376
    """
    hours = seconds / 3600
    kwh = hours * devices * watts * power.pue / 1000
    return Bill(seconds, kwh, kwh * power.emission, hours * devices * price + kwh * power.price)


def bill_on(cluster: Cluster, seconds: float) -> Bill:
    """The bill of a training on all devices of a cluster that are in use."""
    bills = [
        bill_of(seconds, count, device.watts, device.price, cluster.power)
        for device, count in cluster.in_use()
    ]
    return Bill(
        seconds,
        sum(bill.kwh for bill in bills),
        sum(bill.kg_co2 for bill in bills),
        sum(bill.money for bill in bills),
    )
