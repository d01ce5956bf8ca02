"""Clusters in YAML: each quantity with its unit, and one error that names key and line."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import yaml

from hvdkit.errors import HvdkitError
from hvdkit.planner.cluster import Cluster, Hosts, Power
from hvdkit.planner.devices import Device, Rate
from hvdkit.planner.links import Link, Network
from hvdkit.planner.units import quantity

_RATES = {"16-bit": 16, "32-bit": 32}


class ClusterFileError(HvdkitError, ValueError):
    """A cluster's file says something that can't be used; the message names key and line."""


class _Entry:
    """A mapping of the file, of which each key has to be used."""

    def __init__(self, node: yaml.Node, path: str, file: str) -> None:
        self._path, self._file, self._node = path, file, node
        if not isinstance(node, yaml.MappingNode):
            raise self.error(f"{path or 'the file'} has to have keys and values", node)
        self.values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error("a key has to be a word", key)
            if key.value in self.values:
                raise self.error(f"{self.name(key.value)} is there twice", key)
            self.values[key.value] = value
        self._keys = {key.value: key for key, _ in node.value}

    def name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def error(self, what: str, node: yaml.Node) -> ClusterFileError:
        return ClusterFileError(f"{self._file}, line {node.start_mark.line + 1}: {what}.")

    def only(self, *known: str) -> None:
        """Refuse what is not known."""
        for key, node in self._keys.items():
            if key not in known:
                raise self.error(
                    f"{self.name(key)} is not known: there are {', '.join(known)}", node
                )

    def node(self, key: str) -> yaml.Node:
        if key not in self.values:
            raise self.error(f"{self.name(key)} is missing", self._node)
        return self.values[key]

    def text(self, key: str) -> str:
        node = self.node(key)
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            raise self.error(f"{self.name(key)} has to be a word or a number", node)
        return str(node.value)

    def entry(self, key: str) -> _Entry:
        return _Entry(self.node(key), self.name(key), self._file)

    def entries(self, key: str) -> Iterable[_Entry]:
        node = self.node(key)
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self.error(f"{self.name(key)} has to be a list of one or more", node)
        for number, child in enumerate(node.value):
            yield _Entry(child, f"{self.name(key)}[{number}]", self._file)

    def quantity(self, key: str, kind: str, default: float | None = None) -> float:
        if key not in self.values and default is not None:
            return default
        return self.as_quantity(self.text(key), kind, key)

    def as_quantity(self, text: str, kind: str, key: str) -> float:
        try:
            return quantity(text, kind)
        except ValueError as error:
            raise self.error(f"{self.name(key)}: {error}", self._keys[key]) from None

    def positive(self, key: str, kind: str) -> float:
        value = self.quantity(key, kind)
        if value <= 0:
            raise self.error(f"{self.name(key)} has to be above 0", self.node(key))
        return value

    def number(self, key: str, least: float, default: float | None = None) -> float:
        if key not in self.values and default is not None:
            return default
        text = self.text(key)
        try:
            value = float(text)
        except ValueError:
            raise self.error(f"{self.name(key)}: {text!r} is no number", self.node(key)) from None
        if not least <= value < float("inf"):
            raise self.error(f"{self.name(key)}: {text} is below {least:g}", self.node(key))
        return value

    def count(self, key: str, default: int | None = None) -> int:
        value = self.number(key, 1, default)
        if value != int(value):
            raise self.error(f"{self.name(key)}: {value} is no whole number", self.node(key))
        return int(value)

    def truth(self, key: str) -> bool:
        if key not in self.values:
            return False
        text = self.text(key)
        if text not in ("true", "false"):
            raise self.error(f"{self.name(key)} is true or false, not {text}", self.node(key))
        return text == "true"


def read_cluster(file: Path) -> Cluster:
    """Read a cluster's file.

    Raises:
        ClusterFileError: it can't be read, or says something that can't be used.

    Example:
        >>> read_cluster(Path("my-cluster.yaml")).ranks
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterFileError(f"{file} can't be read: {error}.") from error
    return parse_cluster(text, str(file))


def parse_cluster(text: str, file: str = "the cluster") -> Cluster:
    """A cluster from the text of a file; see `read_cluster`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ClusterFileError(f"{file} is no YAML: {error}.") from error
    if node is None:
        raise ClusterFileError(f"{file} is empty.")
    top = _Entry(node, "", file)
    top.only("name", "hosts", "links", "power", "currency")
    hosts = tuple(_hosts(entry) for entry in top.entries("hosts"))
    several = sum(each.count for each in hosts) > 1
    return Cluster(
        top.text("name") if "name" in top.values else Path(file).stem,
        hosts,
        _network(top.entry("links"), max(each.devices for each in hosts) > 1, several),
        _power(top.entry("power")) if "power" in top.values else Power(),
        top.text("currency") if "currency" in top.values else "USD",
    )


def presets() -> dict[str, str]:
    """The clusters that come along: names, and the texts of their files."""
    folder = resources.files("hvdkit.planner") / "clusters"
    found = {file.name: file for file in folder.iterdir() if file.name.endswith(".yaml")}
    return {name.removesuffix(".yaml"): file.read_text() for name, file in sorted(found.items())}


def find_cluster(name_or_file: str) -> Cluster:
    """A cluster that comes along, by its name, or one from a file.

    Raises:
        ClusterFileError: there is neither, or the file can't be used.
    """
    known = presets()
    if name_or_file in known:
        return parse_cluster(known[name_or_file], name_or_file)
    if Path(name_or_file).exists():
        return read_cluster(Path(name_or_file))
    raise ClusterFileError(
        f"there is no file {name_or_file}, and no cluster of that name: there are "
        f"{', '.join(known)}."
    )


def _hosts(entry: _Entry) -> Hosts:
    entry.only("count", "devices", "device")
    return Hosts(entry.count("count", 1), entry.count("devices"), _device(entry.entry("device")))


def _device(entry: _Entry) -> Device:
    entry.only("name", "rates", "memory", "bandwidth", "operation", "power", "price")
    rates = entry.entry("rates")
    rates.only(*_RATES)
    if not rates.values:
        raise rates.error(f"{entry.name('rates')} has no rate", entry.node("rates"))
    bandwidth, elements = _bandwidth(entry)
    return Device(
        entry.text("name"),
        {_RATES[key]: _rate(rates.entry(key)) for key in rates.values},
        entry.positive("memory", "a number of bytes"),
        bandwidth,
        entry.quantity("power", "a power", 0.0),
        entry.quantity("price", "a price of an hour", 0.0),
        elements,
        entry.positive("operation", "a time") if "operation" in entry.values else None,
    )


def _bandwidth(entry: _Entry) -> tuple[float, float | None]:
    """Of a data sheet; or measured, with what operations on single elements attain."""
    kind = "a rate of bytes"
    if not isinstance(entry.node("bandwidth"), yaml.MappingNode):
        return entry.positive("bandwidth", kind), None
    rates = entry.entry("bandwidth")
    rates.only("peak", "attainable")
    return _peak_and_attainable(rates, kind)


def _rate(entry: _Entry) -> Rate:
    entry.only("peak", "attainable", "sides")
    peak, attainable = _peak_and_attainable(entry, "a rate of operations")
    if "sides" not in entry.values:
        return Rate(peak, attainable)
    table = entry.entry("sides")
    sides: dict[int, float] = {}
    if not table.values:
        raise entry.error(f"{entry.name('sides')} names no side", entry.node("sides"))
    for key in table.values:
        if not key.isdecimal() or int(key) == 0:
            raise table.error(
                f"{entry.name('sides')}: {key!r} is no side of a matrix", table.node(key)
            )
        sides[int(key)] = table.positive(key, "a rate of operations")
        if sides[int(key)] > peak:
            raise table.error(f"{table.name(key)} is above the peak", table.node(key))
    return Rate(peak, attainable, sides)


def _peak_and_attainable(entry: _Entry, kind: str) -> tuple[float, float]:
    peak, attainable = entry.positive("peak", kind), entry.positive("attainable", kind)
    if attainable > peak:
        raise entry.error(f"{entry.name('attainable')} is above the peak", entry.node("attainable"))
    return peak, attainable


def _network(entry: _Entry, several_devices: bool, several_hosts: bool) -> Network:
    entry.only("inside", "between", "in_turn", "hidden")
    between, inside = None, Link(float("inf"))  # where there is one host, or one device of each
    if several_hosts or "between" in entry.values:
        between = _link(entry.entry("between"))
    if several_devices or "inside" in entry.values:
        inside = _link(entry.entry("inside"))
    hidden = entry.number("hidden", 0, 1)
    if hidden > 1:
        raise entry.error(f"{entry.name('hidden')} is a part, from 0 to 1", entry.node("hidden"))
    return Network(inside, between, entry.truth("in_turn"), hidden)


def _link(entry: _Entry) -> Link:
    if "all_reduce" in entry.values:
        entry.only("all_reduce", "measured_over")
        table = entry.entry("all_reduce")
        points = []
        for key in table.values:
            size = table.as_quantity(key, "a number of bytes", key)
            time = table.positive(key, "a time")
            points.append((size, time))
        if len(points) < 2 or min(size for size, _ in points) <= 0:
            raise table.error(
                f"{entry.name('all_reduce')} needs two sizes above 0 or more",
                entry.node("all_reduce"),
            )
        devices = entry.count("measured_over")
        if devices < 2:
            raise entry.error(
                f"{entry.name('measured_over')}: an all-reduce has 2 devices or more",
                entry.node("measured_over"),
            )
        return Link.from_table(points, devices)
    entry.only("bandwidth", "latency", "all_reduce", "measured_over")
    return Link(
        entry.positive("bandwidth", "a rate of bytes"), entry.quantity("latency", "a time", 0.0)
    )


def _power(entry: _Entry) -> Power:
    entry.only("pue", "emission", "price")
    return Power(
        entry.number("pue", 1, 1),
        entry.quantity("emission", "an emission", 0.0),
        entry.quantity("price", "a price of energy", 0.0),
    )
