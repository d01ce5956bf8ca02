"""Look at several hosts: can each be reached, do they have the same, how fast are they together."""

import itertools
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hvdkit_cli.building.process import run_for
from hvdkit_cli.doctor import facts as facts_module
from hvdkit_cli.doctor import pair as pair_module
from hvdkit_cli.doctor.check import Check, fail, ok, skip
from hvdkit_cli.doctor.remote import Answer, ask
from hvdkit_cli.doctor.trial import trial_environment
from hvdkit_cli.errors import CommandError
from hvdkit_cli.scripts import FOLDER

_SAME = ("Python", "hvdkit", "TensorFlow", *facts_module.PACKAGES, "Horovod's build")
_CLOCK_SECONDS = 1.0
# A pair that is so much slower than the median of all has a fault.
_SLOW_TIMES = 10.0
_LINES = 6

_PAIR_REMEDY = (
    "let the hosts reach each other on any port (firewall, security group); where they have "
    "several networks, name the right one: --interface eth0"
)


def examine_hosts(hosts: Sequence[str], interface: str | None, timeout: float) -> list[Check]:
    """Examine hosts, as a job would use them that is started here.

    Args:
        hosts: Their names.
        interface: The interface that jobs use on them; None to leave it to MPI.
        timeout: Seconds that an answer, or a two-rank job, may take.

    Returns:
        The findings, in the order in which to mend them.

    Raises:
        CommandError: A host is named twice, or none.
    """
    if not hosts or len(set(hosts)) < len(hosts) or not all(hosts):
        raise CommandError(
            f"--hosts needs names, each once, with commas between them, not '{','.join(hosts)}'",
            "hvdkit doctor --hosts node1,node2",
        )
    env = trial_environment(os.environ)
    with ThreadPoolExecutor(16) as pool:
        answers = dict(zip(hosts, pool.map(lambda h: ask(h, env, timeout), hosts), strict=True))
    here = facts_module.facts()
    checks = [answer.check for answer in answers.values()]
    good = []
    for host, answer in answers.items():
        if answer.facts is None:
            continue
        same = _same(host, answer.facts, here)
        checks += [same, _clock(host, answer)]
        if not same.failed:
            good.append(host)
    found = {host: answer.facts for host, answer in answers.items() if answer.facts}
    bad = [host for host in hosts if host not in good]
    pairs = [_pair(one, other, interface, env, timeout) for one, other in _pairs(good)]
    if not interface:
        checks += _networks(found, pairs)
    checks += _compared(pairs)
    if bad and len(hosts) > 1:
        checks.append(skip("pairs", f"not tried with {', '.join(bad)}: see above"))
    return checks


def _pairs(hosts: Sequence[str]) -> Iterator[tuple[str, str]]:
    return itertools.combinations(hosts, 2)


def _same(host: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Check:
    """Compare what a host has with what this one has."""
    name = f"{host}: installed"
    other = [
        f"{what}: {there[what] or 'missing'}, here {here[what] or 'missing'}"
        for what in _SAME
        if there[what] != here[what]
    ]
    if other:
        remedy = (
            "install the same there, at the same paths (a shared folder, one image, or the same "
            "`pip install -c constraints.txt` and `hvdkit build`)"
        )
        return fail(name, "\n".join(other), remedy)
    return ok(name, f"as here: hvdkit {here['hvdkit']}, {here['TensorFlow']}")


def _clock(host: str, answer: Answer) -> Check:
    name = f"{host}: clock"
    detail = f"{answer.ahead:+.2f} s (to {answer.seconds / 2:.2f} s)"
    if abs(answer.ahead) - answer.seconds > _CLOCK_SECONDS:
        return fail(name, detail, "let the hosts take their time from one place (chrony, ntpd)")
    return ok(name, detail)


def _networks(found: Mapping[str, Mapping[str, Any]], pairs: Sequence[Check]) -> list[Check]:
    """Addresses that several hosts have: those of a bridge for containers lead nowhere."""
    owners: dict[str, list[str]] = {}
    for host, facts in found.items():
        for address, interface in facts["addresses"].items():
            owners.setdefault(address, []).append(f"{host} ({interface})")
    twice = {address: where for address, where in owners.items() if len(where) > 1}
    if not twice:
        return []
    named = "; ".join(f"{address} on {', '.join(where)}" for address, where in twice.items())
    detail = f"the same address on several hosts: {named}"
    if not any(pair.failed for pair in pairs):
        return [ok("networks", f"{detail}; jobs work all the same")]
    remedy = (
        "name the network that reaches the hosts: `hvdkit mpirun --interface eth0`, and here "
        "--interface eth0; else MPI tries these addresses, too, and may hang"
    )
    return [fail("networks", detail, remedy)]


def _pair(
    one: str, other: str, interface: str | None, env: Mapping[str, str], timeout: float
) -> Check:
    """Run a job of two ranks, one on each host."""
    name = f"{one} - {other}"
    command = ["bash", str(FOLDER.resolve() / "hvdkit-mpirun.sh"), "-np", "2", "--bind", "none"]
    command += ["-H", f"{one}:1,{other}:1"]
    command += ["--interface", interface] if interface else []
    command += ["--", sys.executable, str(Path(pair_module.__file__).resolve())]
    status, output = run_for(command, {**env, "HOROVOD_CONTROLLER": "mpi"}, timeout)
    lines = [line for line in output.splitlines() if line.strip()]
    found = [line.partition(pair_module.MARK)[2] for line in lines if pair_module.MARK in line]
    if status is None:
        detail = f"no end within {timeout:g} s\n" + "\n".join(lines[-_LINES:])
        return fail(name, detail.strip(), _PAIR_REMEDY)
    if status != 0 or not found:
        detail = f"exit status {status}\n" + "\n".join(lines[-_LINES:])
        return fail(name, detail.strip(), _PAIR_REMEDY)
    measured = json.loads(found[0])
    if (measured["size"], measured["local_size"]) != (2, 1):
        detail = f"ranks that see {measured['size']} ranks, {measured['local_size']} on their host"
        return fail(
            name, detail, "check that mpirun belongs to the MPI that Horovod was built with"
        )
    speed = {key: float(measured[key]) for key in ("latency_ms", "megabytes_per_second")}
    detail = f"allreduce: {speed['latency_ms']:.2f} ms, {speed['megabytes_per_second']:.0f} MB/s"
    return Check(name, "ok", detail, measured=speed)


def _compared(pairs: Sequence[Check]) -> list[Check]:
    """Let pairs fail that are much slower than the others."""
    speeds = [pair.measured["megabytes_per_second"] for pair in pairs if pair.measured]
    if len(speeds) < 3:
        return list(pairs)
    usual = statistics.median(speeds)
    return [_judged(pair, usual) for pair in pairs]


def _judged(pair: Check, usual: float) -> Check:
    if not pair.measured or pair.measured["megabytes_per_second"] * _SLOW_TIMES > usual:
        return pair
    detail = f"{pair.detail}, where others have {usual:.0f} MB/s"
    remedy = "look at the link (ethtool: speed, errors), the cable and the port of the switch"
    return Check(pair.name, "fail", detail, remedy, pair.measured)
