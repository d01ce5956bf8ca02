"""The record of what the installed Horovod was built for, kept in its metadata."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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


def write_record(record: BuildRecord) -> None:
    """Write the record into the dist-info, and into RECORD so that an uninstall removes it.

    Raises:
        OSError: It can't be written.
    """
    found = distribution("horovod")
    metadata = installed_file(found, ".dist-info/METADATA") if found else None
    if metadata is None:
        raise OSError("the installed Horovod has no metadata")
    folder = metadata.parent
    content = {"key": record.key, "facts": dict(record.facts)}
    (folder / RECORD_NAME).write_text(json.dumps(content, indent=2) + "\n")
    with (folder / "RECORD").open("a", newline="") as file:
        file.write(f"{folder.name}/{RECORD_NAME},,{os.linesep}")
