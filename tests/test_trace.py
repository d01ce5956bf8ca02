"""Traces: the readers, the file, and steps of real ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rank_checks import Check
from rank_pool import RankPools

JOBS = [("trace", "mpi", 2), ("trace.clocks", "gloo", 2), ("trace.loops", "gloo", 2)]
LONG_JOBS = [("trace", "gloo", 2), ("trace", "mpi", 3), ("trace_pipeline", "mpi", 2)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)
