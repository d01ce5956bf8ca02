"""Fixtures of the tests of jobs on Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pods
import pytest
import yaml


@pytest.fixture
def job(tmp_path: Path) -> Iterator[pods.MPIJob]:
    """The MPIJob of mpi/kubernetes.yaml."""
    yield from _job(pods.MANIFEST, tmp_path)


@pytest.fixture
def elastic_job(tmp_path: Path) -> Iterator[pods.MPIJob]:
    """The MPIJob of mpi/kubernetes/elastic.yaml."""
    yield from _job(pods.ELASTIC, tmp_path)


def _job(manifest: Path, folder: Path) -> Iterator[pods.MPIJob]:
    if reason := pods.missing():
        pytest.skip(reason)
    with pods.mpi_job(yaml.safe_load(manifest.read_text()), folder) as job:
        yield job
