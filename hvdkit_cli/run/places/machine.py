"""This machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

import psutil

from hvdkit_cli.record import read_record
from hvdkit_cli.run.hosts import Host
from hvdkit_cli.run.request import Place, Request

_ASK_SECONDS = 20.0


def detect(request: Request, environ: Mapping[str, str]) -> Place | None:
    """One slot for each GPU where Horovod was built for them, else one for each core."""
    gpus = _gpus(environ)
    slots, unit = (gpus, "GPUs") if gpus else (_cores(), "cores")
    source = f"the {unit} of this machine"
    return Place("machine", source, [Host("localhost", slots)], slots, source)


def _cores() -> int:
    """The cores that this process may use; hardware threads of one count once."""
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def _gpus(environ: Mapping[str, str]) -> int:
    record = read_record()
    if record is None or record.facts.get("device") != "gpu":
        return 0
    if visible := environ.get("CUDA_VISIBLE_DEVICES"):
        return len(visible.split(","))
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_ASK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0  # a machine without GPUs
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
