"""One launched job runs all checks of a module, and each rank reports on each of them."""

from __future__ import annotations

import ast
import json
import tempfile
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
            for line in report
            if line["check"] == check and line["error"]
        ]
        assert not failed, "\n".join(failed)
        missing = [
            rank
            for rank, report in enumerate(self.reports)
            if check not in [line["check"] for line in report]
        ]
        assert not missing, (
            f"ranks {missing} did not finish this check, maybe because of an earlier one; "
            + self.finished.describe()
        )


class Jobs:
    """Runs each job once."""

    def __init__(self) -> None:
        self._done: dict[tuple[str, str, int], Job] = {}

    def get(self, module: str, launcher: str, ranks: int) -> Job:
        """The job that ran the checks of `module`."""
        key = (module, launcher, ranks)
        if key not in self._done:
            with tempfile.TemporaryDirectory() as folder:
                finished = run_ranks(
                    launcher, ranks, ["tests/worker.py", module, folder], timeout=280
                )
                reports = [_read(Path(folder) / f"rank{rank}.jsonl") for rank in range(ranks)]
            self._done[key] = Job(finished, reports)
        return self._done[key]


def _read(file: Path) -> list[dict]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def checks_of(module: str) -> list[str]:
    """Names of the checks in a module, without importing it."""
    tree = ast.parse((CHECKS / f"{module}.py").read_text())
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    ]
