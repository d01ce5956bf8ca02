"""Fixtures of the tests of the scripts in mpi/."""

from __future__ import annotations

from pathlib import Path

import pytest
from wrapper_sandbox import Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)
