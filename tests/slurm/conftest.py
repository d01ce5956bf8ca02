"""A Slurm for the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_box import SlurmBox, missing, slurm_box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmBox]:
    """Two nodes, and a host for users; see box.sh."""
    if reason := missing():
        pytest.skip(reason)
    with slurm_box(tmp_path_factory.mktemp("slurm")) as made:
        yield made
