"""What each rank of a test job runs.

    worker.py --pool SOCKET INIT            the checks that pytest asks for, see `rank_pool.py`
    worker.py MODULE FOLDER [CHECK ...]     by hand: the checks of a module or package, or some

By hand, under any launcher, each rank writes a line for each check that it has finished into the
folder. A check that fails ends the rank at once, so that the launcher ends the others.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import runpy
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Client
from pathlib import Path
from types import ModuleType
from typing import Any

DEVICES = "CHECKS_CPU_DEVICES"
SCRIPT = "script"


def main(module_name: str, report_folder: str, *only: str) -> None:
    from rank_checks import settings_of

    settings = settings_of(module_name)
    for name, value in settings.get("ENVIRONMENT", {}).items():
        os.environ.setdefault(name, value)
    hvd = start(settings.get("INIT", {}))
    checks = checks_in(importlib.import_module(f"checks.{module_name}"))
    with open(Path(report_folder) / f"rank{hvd.rank()}.jsonl", "w", buffering=1) as report:
        for name in only or checks:
            started = time.monotonic()
            error = error_of(checks[name])
            seconds = round(time.monotonic() - started, 1)
            report.write(json.dumps({"check": name, "error": error, "seconds": seconds}) + "\n")
            if error is not None:
                report.flush()
                os._exit(1)


def serve(address: str, init: str) -> None:
    """Run the checks that pytest sends, until it closes the connection."""
    hvd = start(json.loads(init))
    from rank_state import RankState, is_reusable

    state = RankState()
    with Client(address) as connection:
        connection.send(hvd.rank())
        while True:
            try:
                file, name = connection.recv()
            except EOFError:
                break
            state.seed_for(name)
            began = time.process_time()
            error = error_of(partial(run_check, file, name))
            state.restore()
            cpu = time.process_time() - began
            answer = {"error": error, "reusable": error is None and is_reusable(), "cpu": cpu}
            connection.send(answer)


def run_check(file: str, name: str) -> None:
    """Import a file of checks, which may fail too, and run one of them; or run a script."""
    if name == SCRIPT:
        os.chdir(Path(file).parent)
        runpy.run_path(file, run_name="__main__")
        return
    getattr(importlib.import_module(f"checks.{file}"), name)()


def start(init: dict[str, Any]) -> ModuleType:
    """Start hvdkit, on as many logical CPU devices as the checks need."""
    import tensorflow as tf

    import hvdkit as hvd

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if count := int(os.environ.get(DEVICES, "0")):
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * count,
        )
    hvd.init(**init)
    return hvd


def error_of(check: Callable[[], None]) -> str | None:
    """Run a check; what it raised, as text, or None."""
    try:
        check()
    except BaseException:
        return traceback.format_exc()
    return None


def checks_in(module: ModuleType) -> dict[str, Callable[[], None]]:
    """The checks of a module, or of the modules that a package lists in `MODULES`, by name."""
    parts = getattr(module, "MODULES", None)
    modules = (
        [module]
        if parts is None
        else [importlib.import_module(f"{module.__name__}.{part}") for part in parts]
    )
    return {
        name: value
        for each in modules
        for name, value in vars(each).items()
        if name.startswith("check_")
    }


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1] == "--pool" else main(*sys.argv[1:])
