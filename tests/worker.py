"""What each rank of a test job runs: all checks of one module or package, in order.

A check that fails ends the rank at once, with an exit status that is not 0, so the launcher ends
the others. Each rank writes a line for each check that it has finished.

A module, or the `__init__.py` of a package, can hold `INIT`: arguments of `hvd.init`.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def main(module_name: str, report_folder: str, *only: str) -> None:
    import hvdkit as hvd

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    read_without_autotuning()
    module = importlib.import_module(f"checks.{module_name}")
    checks = checks_in(module)
    hvd.init(**getattr(module, "INIT", {}))
    with open(Path(report_folder) / f"rank{hvd.rank()}.jsonl", "w", buffering=1) as report:
        for name in only or checks:
            started = time.monotonic()
            line = {"check": name, "error": None}
            try:
                checks[name]()
            except BaseException:
                report.write(json.dumps(line | {"error": traceback.format_exc()}) + "\n")
                report.flush()
                os._exit(1)
            line["seconds"] = round(time.monotonic() - started, 1)
            report.write(json.dumps(line) + "\n")


def read_without_autotuning() -> None:
    """Let TensorFlow not tune how data is read.

    Where ranks share cores, the thread that tunes may miss that its iterator is at its end, and
    whoever deletes the iterator then waits for it, for up to a minute.
    """
    import tensorflow as tf

    from hvdkit.data.source import without_autotuning

    start = tf.data.Dataset.__iter__
    tf.data.Dataset.__iter__ = lambda dataset: start(without_autotuning(dataset))


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
    main(*sys.argv[1:])
