"""Install a built wheel, and keep with it the record of what it was built for."""

import sys
from collections.abc import Mapping
from pathlib import Path

from hvdkit_cli.building.process import run_logged, tail
from hvdkit_cli.errors import CommandError
from hvdkit_cli.record import BuildRecord, write_record


def install(wheel: Path, record: BuildRecord, env: Mapping[str, str], log: Path) -> None:
    """Install a wheel in this environment in place of any other Horovod, and write its record.

    Args:
        wheel: The wheel's file.
        record: What it was built for.
        env: The environment for pip.
        log: The log to append to.

    Raises:
        CommandError: pip failed, or the record can't be written.
    """
    command = [
        *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--force-reinstall"),
        str(wheel),
    ]
    if run_logged(command, env, log) != 0:
        raise CommandError(
            f"pip could not install {wheel.name}:\n{tail(log, 10)}",
            f"see {log}; if this Python's packages can't be written, use a virtual environment",
        )
    try:
        write_record(record)
    except OSError as error:
        raise CommandError(
            f"The record of the build could not be written: {error}.",
            "make this environment's site-packages writable and run `hvdkit build` again",
        ) from error


def try_import(env: Mapping[str, str], log: Path) -> bool:
    """Import Horovod's library for TensorFlow in a process of its own; True if that works."""
    code = "import horovod.tensorflow as hvd; hvd.gloo_built()"
    quiet = {**env, "TF_CPP_MIN_LOG_LEVEL": "2"}
    return run_logged([sys.executable, "-c", code], quiet, log) == 0
