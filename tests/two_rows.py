"""Two tests at a time: checks on ranks, and beside them what starts jobs of its own.

Ranks use both cores, jobs of their own one for most of their time. Jobs that fail, for which a test
counts how long they take, come last in both rows (`conftest.py` sorts them), when no ranks are in
their way.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

ON_RANKS, OWN_JOBS = "on ranks", "own jobs"
# Parts of test ids.
TIMED = ("tests/faults/", "tests/test_bad_input.py")
_ON_POOLS = ("::test_on_ranks[", "::test_on_devices[", "::test_example_runs[")
_FIRST_ROW = (*_ON_POOLS, "tests/faults/")


class TwoRows(LoadScopeScheduling):
    """Each of two processes gets a row."""

    def _split_scope(self, nodeid: str) -> str:
        return ON_RANKS if any(part in nodeid for part in _FIRST_ROW) else OWN_JOBS
