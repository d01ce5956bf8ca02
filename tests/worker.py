"""What each rank of a test job runs: all checks of one module, in order.

A check that fails ends the rank at once, with an exit status that is not 0, so the launcher ends
the others. Each rank writes a line for each check that it has finished.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import traceback
from pathlib import Path


def main(module_name: str, report_folder: str, *only: str) -> None:
    import hvdkit as hvd

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    module = importlib.import_module(f"checks.{module_name}")
    hvd.init(**getattr(module, "INIT", {}))
    checks = only or [name for name in vars(module) if name.startswith("check_")]
    with open(Path(report_folder) / f"rank{hvd.rank()}.jsonl", "w", buffering=1) as report:
        for name in checks:
            try:
                getattr(module, name)()
            except BaseException:
                report.write(json.dumps({"check": name, "error": traceback.format_exc()}) + "\n")
                report.flush()
                os._exit(1)
            report.write(json.dumps({"check": name, "error": None}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
