"""One launched job runs all checks of a module; each check is a test."""

from __future__ import annotations

import pytest
from rank_jobs import Jobs, checks_of


@pytest.fixture(scope="session")
def jobs() -> Jobs:
    """The jobs of this test run."""
    return Jobs()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each check in the modules that a test file lists in `JOBS`."""
    if "check" not in metafunc.fixturenames:
        return
    cases = [
        pytest.param(module, launcher, ranks, check, id=f"{module}-{launcher}{ranks}-{check[6:]}")
        for module, launcher, ranks in metafunc.module.JOBS
        for check in checks_of(module)
    ]
    metafunc.parametrize(("module", "launcher", "ranks", "check"), cases)
