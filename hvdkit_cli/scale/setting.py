"""When, where and with what a report was made."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from hvdkit_cli.doctor.facts import PACKAGES, facts


@dataclass(frozen=True)
class Setting:
    """What makes a measurement one that can be made again.

    Attributes:
        when: when it was begun, with the offset to UTC.
        host: the host on which `hvdkit scale` ran.
        line: its command line.
        versions: of what is installed there, by name.
    """

    when: str
    host: str
    line: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls) -> Setting:
        """That of this process, now."""
        known = facts()
        found = {name: known[name] for name in ("Python", "TensorFlow", *PACKAGES)}
        found = {"hvdkit": (known["hvdkit"] or "").partition(" in ")[0], **found}
        return cls(
            time.strftime("%Y-%m-%d %H:%M:%S %z"),
            known["hostname"],
            shlex.join(["hvdkit", *sys.argv[1:]]),
            {name: version for name, version in found.items() if version},
        )
