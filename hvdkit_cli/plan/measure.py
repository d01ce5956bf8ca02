"""Measure machines with a job, and write what was found as a cluster's file."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdkit_cli.building.process import run_for
from hvdkit_cli.doctor.trial import trial_environment
from hvdkit_cli.errors import CommandError
from hvdkit_cli.plan import measure_worker
from hvdkit_cli.scripts import FOLDER

_LINES = 8
# Devices are alike if their rates are, to this part; processes of one machine differ by less.
_ALIKE = 1.25


@dataclass(frozen=True)
class Measuring:
    """What to measure; names are those of the options."""

    ranks: int
    hosts: str | None
    interface: str | None
    largest: float
    rounds: int
    timeout: float

    @property
    def names(self) -> list[str]:
        """The hosts."""
        return [each.partition(":")[0] for each in (self.hosts or "").split(",") if each]


def measure(asked: Measuring) -> str:
    """Measure, and return the file's text.

    Raises:
        CommandError: the job failed, or did not end in time.
    """
    whole = _job(asked, asked.ranks, asked.hosts)
    hosts = list(_hosts(whole["ranks"]))
    if len(hosts) == 1:
        return as_yaml(whole, whole, None)
    # The levels by themselves: the ranks of one host, and one rank of each host.
    here = whole["ranks"][0]["local_size"]
    inside = _job(asked, here, f"{asked.names[0]}:{here}") if here > 1 else None
    alone = ",".join(f"{name}:1" for name in asked.names)
    return as_yaml(whole, inside, _job(asked, len(asked.names), alone) if here > 1 else whole)


def _job(asked: Measuring, ranks: int, hosts: str | None) -> dict[str, Any]:
    env = trial_environment(os.environ)
    command = ["bash", str(FOLDER.resolve() / "hvdkit-mpirun.sh"), "-np", str(ranks)]
    command += ["--bind", "none"]
    command += ["-H", hosts] if hosts else ["--oversubscribe"]
    command += ["--interface", asked.interface] if asked.interface else []
    worker = Path(measure_worker.__file__).resolve()
    command += ["--", sys.executable, str(worker), str(asked.largest), str(asked.rounds)]
    status, output = run_for(command, {**env, "HOROVOD_CONTROLLER": "mpi"}, asked.timeout)
    lines = [line for line in output.splitlines() if line.strip()]
    found = [
        line.partition(measure_worker.MARK)[2] for line in lines if measure_worker.MARK in line
    ]
    if status == 0 and found:
        result: dict[str, Any] = json.loads(found[0])
        if len(result["ranks"]) == ranks:
            return result
        lines.append(f"{len(result['ranks'])} ranks found each other, not {ranks}")
    how = f"did not end within {asked.timeout:g} s" if status is None else f"ended with {status}"
    raise CommandError(
        f"the job that measures {how}:\n" + "\n".join(lines[-_LINES:]),
        "hvdkit doctor" + (f" --hosts {','.join(asked.names)}" if hosts else "")
        + " says what is wrong; a slow machine may need --timeout",
    )  # fmt: skip


def as_yaml(
    whole: Mapping[str, Any], inside: Mapping[str, Any] | None, between: Mapping[str, Any] | None
) -> str:
    """The text of a cluster's file.

    Args:
        whole: what the job on all ranks found: `ranks`, the times of `all_reduce`, and which part
            of one is `hidden`.
        inside: the same of the ranks of one host; None where a host has one.
        between: the same of one rank of each host; None for one host.
    """
    lines = ["# Measured by hvdkit plan measure, all ranks at once.", "name: measured", "hosts:"]
    for host, ranks in _hosts(whole["ranks"]).items():
        lines += [
            f"  - count: 1 # {host}",
            f"    devices: {len(ranks)}",
            "    device:",
            f"      name: {json.dumps(_name(ranks, whole['ranks']))}",
            "      rates:",
        ]
        for bits in ranks[0]["rates"]:
            common = set.intersection(*(set(rank["rates"][bits]) for rank in ranks))
            rates = {
                side: f"{statistics.median(r['rates'][bits][side] for r in ranks) / 1e9:.4g}"
                for side in sorted(common, key=int)
            }
            best = max(rates.values(), key=float)
            sides = ", ".join(f"{side}: {rate} GFLOP/s" for side, rate in rates.items())
            lines.append(f"        {bits}:")
            lines.append(f"          {{peak: {best} GFLOP/s, attainable: {best} GFLOP/s,")
            lines.append(f"           sides: {{{sides}}}}}")
        bandwidth, elements, operation = (
            statistics.median(rank[what] for rank in ranks)
            for what in ("bandwidth", "elements", "operation")
        )
        lines += [
            f"      memory: {min(rank['memory'] for rank in ranks) / 2**20:.0f} MiB",
            f"      bandwidth: {{peak: {max(bandwidth, elements) / 1e9:.4g} GB/s, "
            f"attainable: {elements / 1e9:.4g} GB/s}}",
            f"      operation: {1e6 * operation:.3g} us",
        ]
    lines.append("links:")
    if inside is not None:
        lines += _link("inside", inside)
    if between is not None:
        lines += _link("between", between)
    lines += ["  in_turn: true", f"  hidden: {whole['hidden']:.2f}"]
    return "\n".join(lines) + "\n"


def _hosts(ranks: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for rank in ranks:
        found.setdefault(rank["host"], []).append(rank)
    return found


def _name(ranks: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]]) -> str:
    """The device's name; with its host's where others are faster or slower."""

    def rate(rank: Mapping[str, Any]) -> float:
        return float(max(max(sides.values()) for sides in rank["rates"].values()))

    rates = [rate(rank) for rank in every]
    own = statistics.median(rate(rank) for rank in ranks)
    alike = max(rates) <= _ALIKE * min(rates)
    return str(ranks[0]["device"]) if alike else f"{ranks[0]['device']} {own / 1e9:.0f} GFLOP/s"


def _link(name: str, found: Mapping[str, Any]) -> list[str]:
    lines = [f"  {name}:", f"    measured_over: {len(found['ranks'])}", "    all_reduce:"]
    for size, seconds in found["all_reduce"].items():
        lines.append(f"      {int(size) // 2**10} KiB: {1e6 * seconds:.1f} us")
    return lines
