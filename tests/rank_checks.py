"""The checks in `tests/checks`, and the ranks that each of them needs.

Checks are functions `check_...` of a module, or of the files that a package lists in `MODULES`.
A module, or the package's `__init__.py`, can hold `ENVIRONMENT`, the variables that its ranks need,
and `INIT`, arguments of `hvd.init`. pytest's own process reads all that in the sources and imports
none of it: it is no rank.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from launch import ROOT

CHECKS = ROOT / "tests" / "checks"
Frozen = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Ranks:
    """What ranks have to be alike in to run each other's checks.

    Attributes:
        launcher: see `run_ranks`.
        count: number of ranks.
        environment: more variables of their environment.
        init: arguments of `hvd.init`.
    """

    launcher: str
    count: int
    environment: Frozen = ()
    init: Frozen = ()

    def with_environment(self, variables: Mapping[str, str]) -> Ranks:
        """The same with more variables."""
        merged = _frozen({**dict(self.environment), **variables})
        return Ranks(self.launcher, self.count, merged, self.init)

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in (*self.environment, *self.init)]
        return " ".join([f"{self.launcher} x {self.count}", *options])


@dataclass(frozen=True)
class Check:
    """A check as a test of pytest's.

    Attributes:
        module: the module or package in `tests/checks`, or "package.file".
        file: the module that holds it, below `checks`; or the path of a script.
        name: the function's name; or "script".
        ranks: what runs it.
        is_long: whether only `make test-long` runs it.
    """

    module: str
    file: str
    name: str
    ranks: Ranks
    is_long: bool = False

    def __str__(self) -> str:
        name = self.name.removeprefix("check_")
        return f"{self.module}-{self.ranks.launcher}{self.ranks.count}-{name}"


def checks_of(module: str, launcher: str, count: int) -> list[Check]:
    """The checks of a module or package on some ranks, in the order in which they run."""
    settings = settings_of(module)
    ranks = Ranks(
        launcher,
        count,
        _frozen(settings.get("ENVIRONMENT", {})),
        _frozen(settings.get("INIT", {})),
    )
    files = [f"{module}.{part}" for part in settings.get("MODULES", ())] or [module]
    found = [
        Check(module, file, function.name, ranks, _is_long(function))
        for file in files
        for function in _tree(_file_of(file)).body
        if isinstance(function, ast.FunctionDef) and function.name.startswith("check_")
    ]
    names = [check.name for check in found]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"tests/checks/{module} has these checks twice: {sorted(twice)}"
    return found


def _is_long(function: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "long" for mark in function.decorator_list)


def _file_of(module: str) -> Path:
    path = CHECKS.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def settings_of(module: str) -> dict[str, Any]:
    """`MODULES`, `ENVIRONMENT` and `INIT` of a module; the last two also from its package."""
    package, _, file = module.rpartition(".")
    inherited = _constants(_file_of(package)) if file and package else {}
    inherited.pop("MODULES", None)
    return {**inherited, **_constants(_file_of(module))}


def _constants(file: Path) -> dict[str, Any]:
    return {
        target.id: ast.literal_eval(node.value)
        for node in _tree(file).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("MODULES", "ENVIRONMENT", "INIT")
    }


def _frozen(mapping: Mapping[str, Any]) -> Frozen:
    return tuple(sorted(mapping.items()))
