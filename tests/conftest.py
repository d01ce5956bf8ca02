"""Each check of `tests/checks` is a test; those that need the same ranks run on the same ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import seconds_spent
from rank_checks import Check, checks_of
from rank_pool import RankPools
from two_rows import TIMED, TwoRows


@pytest.fixture(scope="session")
def _pools() -> Iterator[RankPools]:
    pools = RankPools()
    yield pools
    pools.close()


@pytest.fixture
def pools(_pools: RankPools) -> RankPools:
    """The ranks of this test run."""
    return _pools


@pytest.fixture(autouse=True)
def _no_ranks_beside_other_tests(request: pytest.FixtureRequest, _pools: RankPools) -> None:
    """Ranks that wait would take cores from the jobs that a test starts itself."""
    if "pools" not in request.fixturenames:
        _pools.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each check in the modules that a test file lists.

    `JOBS` are run always, but for checks that are marked as long; `LONG_JOBS`, the same checks on
    other ranks, are run by `make test-long`.
    """
    if "check" not in metafunc.fixturenames:
        return
    jobs = [(job, False) for job in metafunc.module.JOBS]
    jobs += [(job, True) for job in getattr(metafunc.module, "LONG_JOBS", [])]
    cases = [
        pytest.param(
            check, id=str(check), marks=[pytest.mark.long] if is_long or check.is_long else []
        )
        for job, is_long in jobs
        for check in checks_of(*job)
    ]
    metafunc.parametrize("check", cases)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests together that need the same ranks, so that these start once."""
    places: dict[object, int] = {}
    for item in items:
        places.setdefault(_ranks_or_file(item), len(places))
    items.sort(key=lambda item: (_is_timed(item), places[_ranks_or_file(item)]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run two tests at a time in `make test`."""
    return TwoRows(config, log)


def _is_timed(item: pytest.Item) -> bool:
    uses_ranks = "pools" in getattr(item, "fixturenames", ())
    return not uses_ranks and item.nodeid.startswith(TIMED)


def _ranks_or_file(item: pytest.Item) -> object:
    check = item.callspec.params.get("check") if hasattr(item, "callspec") else None
    return check.ranks if isinstance(check, Check) else item.path


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Give what this process has noted to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["seconds_spent"] = seconds_spent.collected()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take what a process has noted; one that has crashed gives nothing."""
    if noted := getattr(node, "workeroutput", {}).get("seconds_spent"):
        seconds_spent.add(noted)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print where the seconds went."""
    by_file: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                file = Path(report.fspath).as_posix().removeprefix("tests/")
                by_file[file] += report.duration
    if by_file:
        terminalreporter.section("seconds")
        for line in seconds_spent.summary(by_file):
            terminalreporter.line(line)
