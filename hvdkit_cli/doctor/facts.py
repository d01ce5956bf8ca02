"""What is installed on a host, and its clock and addresses: prints one line of JSON.

The doctor sends this file to the Python of other hosts, whether hvdkit is there or not.
"""

import importlib.util
import json
import platform
import re
import socket
import time
from importlib import metadata
from pathlib import Path
from typing import Any

MARK = "HVDKIT-FACTS "
PACKAGES = ("keras", "numpy", "horovod", "mpi4py")


def facts() -> dict[str, Any]:
    """Return what this host has, with nothing large imported."""
    return {
        "hostname": socket.gethostname(),
        "Python": platform.python_version(),
        "hvdkit": _hvdkit(),
        "TensorFlow": _tensorflow(),
        **{name: _version(name) for name in PACKAGES},
        "Horovod's build": _horovod_build(),
        "addresses": _addresses(),
        "time": time.time(),
    }


def _hvdkit() -> str | None:
    """Its version and folder: a job starts the same files on all hosts."""
    spec = importlib.util.find_spec("hvdkit")
    if spec is None or spec.origin is None:
        return None
    found = re.search(r'^__version__ = "(.+)"', Path(spec.origin).read_text(), re.MULTILINE)
    return f"{found[1] if found else 'unknown'} in {Path(spec.origin).parent}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _tensorflow() -> str | None:
    for name in ("tensorflow", "tensorflow-cpu", "tensorflow-cpu-aws", "tensorflow-rocm"):
        if (version := _version(name)) is not None:
            return f"{name} {version}"
    return None


def _horovod_build() -> str | None:
    """What `hvdkit build` made it for; None where it has not made it, or hvdkit is not there."""
    try:
        from hvdkit_cli.record import read_record
    except ImportError:
        return None
    record = read_record()
    if record is None:
        return None
    named = ", ".join(f"{name} {value}" for name, value in sorted(record.facts.items()))
    return f"{record.key[:12]} ({named})"


def _addresses() -> dict[str, str]:
    """The IPv4 addresses and their interfaces; empty without psutil."""
    try:
        import psutil
    except ImportError:
        return {}
    return {
        address.address: interface
        for interface, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    }


if __name__ == "__main__":
    print(MARK + json.dumps(facts()))
