"""hvdkit plan: devices that differ, and what was measured of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hvdkit.planner.cluster import Cluster, Hosts
from hvdkit.planner.devices import Device, Rate, slowest
from hvdkit.planner.fitted import FITTED
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.layer_times import DeviceTimes
from hvdkit.planner.links import Link, Network
from hvdkit.planner.step import step_time
from hvdkit.planner.transformer import Degrees
from hvdkit.planner.work import MeasuredModel

pytestmark = pytest.mark.quick


def device(name: str, rate: float, memory: float = 2e10) -> Device:
    return Device(name, {16: Rate(rate, rate)}, memory, 1e12)


def test_what_is_measured_takes_the_place_of_what_is_fitted() -> None:
    sheet = Device("a", {32: Rate(1e12, 1e12)}, 1e10, 1e10)
    measured = replace(sheet, elements=2e9, operation=1e-5)
    plain, own = (DeviceTimes(each, 32, FITTED) for each in (sheet, measured))
    assert plain.elements(1e9, 3) == pytest.approx(0.1 / FITTED.memory + 3 * FITTED.operation)
    assert own.elements(1e9, 3) == pytest.approx(0.5 + 3e-5)
    assert plain.stream(1e9) == pytest.approx(0.1 / FITTED.memory)
    assert own.stream(1e9) == pytest.approx(0.1)
    assert own.product(1e3, 1e3, 1e3) == pytest.approx(2e9 / 1e12 + 1e-5)
    # The slowest of two has the worst of each; where one is not measured, nothing is known.
    worst = slowest([measured, replace(measured, name="b", elements=1e9, operation=2e-5)])
    assert (worst.elements, worst.operation) == (1e9, pytest.approx(2e-5))
    assert slowest([sheet, replace(measured, name="b")]).elements is None


def test_what_cores_move_takes_time_from_what_they_compute() -> None:
    beside, partly = Network(Link(1e9)), Network(Link(1e9), hidden=0.25)
    for seconds, window, left in ((1.0, 0.4, 0.6), (0.4, 1.0, 0.0)):
        assert beside.exposed(seconds, window) == pytest.approx(left)
    assert partly.exposed(1.0, 0.4) == pytest.approx(0.9)
    assert partly.exposed(0.4, 1.0) == pytest.approx(0.3)


def test_unequal_devices_wait_or_share() -> None:
    hosts = (Hosts(1, 2, device("slow", 1e12)), Hosts(1, 2, device("fast", 3e12)))
    cluster = Cluster("mixed", hosts, Network(Link(1e12), Link(1e12)))
    model = MeasuredModel("m", 1000, 1e12)
    waits = step_time(model, cluster, PlannedJob(16), Degrees(4), 4)
    shares = step_time(model, cluster, PlannedJob(16, share_rows=True), Degrees(4), 4)
    assert waits.compute == pytest.approx(2 * shares.compute, rel=1e-3)  # 1 and (1 + 3) / 2
    whole = Cluster("slow", hosts[:1], cluster.network).with_ranks(4)
    assert step_time(model, whole, PlannedJob(16), Degrees(4), 4).compute == waits.compute
