"""Install a built wheel, and keep with it the record of what it was built for."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hvdkit_cli.building.process import run_logged, tail
from hvdkit_cli.errors import CommandError
from hvdkit_cli.installed import distribution, installed_file

RECORD_NAME = "hvdkit-build.json"


@dataclass(frozen=True)
class BuildRecord:
    """What the installed Horovod was built for.

    Attributes:
        key: The build's cache key.
        facts: What made the key, by name; see `Plan.facts`.
    """

    key: str
    facts: Mapping[str, str]


def read_record() -> BuildRecord | None:
    """Return the record of the installed Horovod, or None if hvdkit did not build it.

    Also None if its compiled library is gone.
    """
    found = distribution("horovod")
    if found is None or compiled_library() is None:
        return None
    try:
        content = json.loads(found.read_text(RECORD_NAME) or "")
        return BuildRecord(str(content["key"]), dict(content["facts"]))
    except (ValueError, KeyError, TypeError):
        return None


def compiled_library() -> Path | None:
    """Return the installed Horovod's library for TensorFlow, or None."""
    found = distribution("horovod")
    if found is None:
        return None
    folder = Path(str(found.locate_file("horovod/tensorflow")))
    return next(iter(sorted(folder.glob("mpi_lib*.so"))), None)


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
        _write_record(record)
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


def _write_record(record: BuildRecord) -> None:
    """Write the record into the dist-info, and into RECORD so that an uninstall removes it."""
    found = distribution("horovod")
    metadata = installed_file(found, ".dist-info/METADATA") if found else None
    if metadata is None:
        raise OSError("the installed Horovod has no metadata")
    folder = metadata.parent
    content = {"key": record.key, "facts": dict(record.facts)}
    (folder / RECORD_NAME).write_text(json.dumps(content, indent=2) + "\n")
    with (folder / "RECORD").open("a", newline="") as file:
        file.write(f"{folder.name}/{RECORD_NAME},,{os.linesep}")
