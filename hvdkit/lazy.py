"""Names of a package that are loaded when they are first used (PEP 562).

So a script loads TensorFlow and Horovod only if it uses what needs them. A package lists its names
three times: for type checkers as imports, for readers and `import *` in `__all__`, and here by the
modules they come from; tests/test_imports.py holds the three together.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

# Module to the names that come from it, with spaces between; without any it is the name itself.
Homes = Mapping[str, str]

_prepare: Callable[[], None] | None = None


def prepare_with(prepare: Callable[[], None]) -> None:
    """Have a function called once, before the first name of `training` is loaded."""
    global _prepare
    _prepare = prepare


def lazy_names(
    package: str, alone: Homes | None = None, training: Homes | None = None
) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its name.
        alone: names that need no more than their module.
        training: names that need TensorFlow, Horovod and a Keras that is ready for them.
    """
    homes = {**_by_name(alone or {}), **_by_name(training or {})}
    prepared = _by_name(training or {})

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if name in prepared:
            _prepare_once()
        module, attribute = homes[name]
        value = importlib.import_module(module)
        if attribute is not None:
            value = getattr(value, attribute)
        setattr(sys.modules[package], name, value)
        return value

    return load


def _by_name(homes: Homes) -> dict[str, tuple[str, str | None]]:
    found: dict[str, tuple[str, str | None]] = {}
    for module, names in homes.items():
        found |= {name: (module, name) for name in names.split()}
        if not names:
            found[module.rpartition(".")[2]] = (module, None)
    return found


def _prepare_once() -> None:
    global _prepare
    prepare, _prepare = _prepare, None  # what it loads may use such names itself
    if prepare is None:
        return
    try:
        prepare()
    except BaseException:
        _prepare = prepare  # what is missing now is missing for the next name, too
        raise
