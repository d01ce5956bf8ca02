"""Hosts for tests, or the reason why there are none here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hosts import Cluster, hosts, why_not


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Makes as many hosts as a test asks for, once; they are gone when it has ended."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path / "cluster"
    folder.mkdir()
    with ExitStack() as stack:
        yield lambda count: stack.enter_context(hosts(count, folder))
