"""Ranks that do not find each other."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.quick

WAITS = """
import math, time
from hvdkit.watch import start_limit
start_limit.SHORTEST_SECONDS = 0.3
with start_limit.start_limit({}, {}):
    time.sleep(0.8)
print("STARTED")
"""


@pytest.mark.parametrize(
    ("seconds", "ranks", "status"), [("0.1", 2, 1), ("60", 2, 0), ("math.inf", 2, 0), ("0.1", 1, 0)]
)
def test_a_start_has_a_limit(seconds: str, ranks: int, status: int) -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WAITS.format(seconds, ranks)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    assert ("STARTED" in done.stdout) == (status == 0)
    assert ("have not found each other within 0.3 s: host" in done.stderr) == (status == 1)
    assert time.monotonic() - start < 30
