"""One launched job runs all checks of a module, and each rank reports on each of them.

Checks that need several files are a package in `tests/checks`. Its `__init__.py` lists them in
`MODULES`, in the order in which the one job runs them, and can hold `ENVIRONMENT`, the variables
that this job needs. pytest's own process imports that file, but none with checks: it is no rank.
"""

from __future__ import annotations

import ast
import importlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launch import ROOT, Finished, run_ranks

CHECKS = ROOT / "tests" / "checks"


@dataclass(frozen=True)
class Job:
    """A job that ran the checks of a module, and what each rank reported."""

    finished: Finished
    reports: list[list[dict]]

    def require(self, check: str) -> None:
        """Fail unless every rank has passed the check."""
        failed = [
            f"rank {rank}: {line['error']}"
            for rank, report in enumerate(self.reports)
            for line in _of(report, check)
            if line["error"]
        ]
        assert not failed, "\n".join(failed)
        missing = [rank for rank, report in enumerate(self.reports) if not _of(report, check)]
        assert not missing, (
            f"ranks {missing} did not finish this check, maybe because of an earlier one; "
            + self.finished.describe()
        )
        seconds = [line["seconds"] for report in self.reports for line in _of(report, check)]
        print(f"CHECK {check}: {max(seconds)} s")


class Jobs:
    """Runs each job once."""

    def __init__(self) -> None:
        self._done: dict[tuple[str, str, int], Job] = {}

    def get(
        self,
        module: str,
        launcher: str,
        ranks: int,
        *,
        timeout: float = 420,
        env: Mapping[str, str] | None = None,
    ) -> Job:
        """The job that ran the checks of `module`.

        Args:
            module: a module or package in `tests/checks`, or "package.module".
            launcher: see `run_ranks`.
            ranks: number of ranks.
            timeout: seconds until the job is killed, if it is not done already.
            env: more variables of its environment.
        """
        key = (module, launcher, ranks)
        if key not in self._done:
            with tempfile.TemporaryDirectory() as folder:
                finished = run_ranks(
                    launcher,
                    ranks,
                    ["tests/worker.py", module, folder],
                    timeout=timeout,
                    env={**environment_of(module), **(env or {})},
                )
                reports = [_read(Path(folder) / f"rank{rank}.jsonl") for rank in range(ranks)]
            self._done[key] = Job(finished, reports)
        return self._done[key]


def _of(report: list[dict], check: str) -> list[dict]:
    return [line for line in report if line["check"] == check]


def _read(file: Path) -> list[dict]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def environment_of(module: str) -> dict[str, str]:
    """The variables that the job of a module needs, besides those of every job."""
    if not _is_package(module):
        return {}
    return getattr(importlib.import_module(f"checks.{module}"), "ENVIRONMENT", {})


def checks_of(module: str) -> list[str]:
    """Names of the checks in a module or package, in the order in which they run."""
    names = [
        node.name
        for file in _files_of(module)
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    ]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"tests/checks/{module} has these checks twice: {sorted(twice)}"
    return names


def _files_of(module: str) -> list[Path]:
    if not _is_package(module):
        return [CHECKS.joinpath(*module.split(".")).with_suffix(".py")]
    package = importlib.import_module(f"checks.{module}")
    return [CHECKS / module / f"{part}.py" for part in package.MODULES]


def _is_package(module: str) -> bool:
    return (CHECKS / module / "__init__.py").exists()
