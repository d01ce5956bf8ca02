"""One launched job runs all checks of a module; each check is a test."""

from __future__ import annotations

import pytest
from rank_jobs import Jobs, checks_of


@pytest.fixture(scope="session")
def jobs() -> Jobs:
    """The jobs of this test run."""
    return Jobs()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each check in the modules that a test file lists.

    `JOBS` are run always, and `LONG_JOBS`, the same checks on other ranks, by `make test-long`.
    """
    if "check" not in metafunc.fixturenames:
        return
    long_jobs = getattr(metafunc.module, "LONG_JOBS", [])
    cases = [
        pytest.param(
            *job,
            check,
            id=f"{job[0]}-{job[1]}{job[2]}-{check[6:]}",
            marks=[pytest.mark.long] if job in long_jobs else [],
        )
        for job in [*metafunc.module.JOBS, *long_jobs]
        for check in checks_of(job[0])
    ]
    metafunc.parametrize(("module", "launcher", "ranks", "check"), cases)
