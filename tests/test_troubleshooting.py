"""docs/troubleshooting.md quotes messages as the sources have them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
# The messages of others have their names behind them: `text` (Open MPI).
_QUOTED = re.compile(r"^### `(.+)`$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"%[sdgr]|%\.\d[fg]")


def _texts(source: Path) -> Iterator[str]:
    """The texts in a Python file, joined as Python joins them, with a mark for each value."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _PLACEHOLDER.sub("\0", node.value)


def _messages() -> list[str]:
    """What hvdkit's sources can say."""
    python = [path for name in ("hvdkit", "hvdkit_cli") for path in (ROOT / name).rglob("*.py")]
    scripts = [path for kind in ("*.sh", "*.yaml") for path in (ROOT / "mpi").rglob(kind)]
    shell = "\n".join(path.read_text() for path in scripts)
    values = re.sub(r"\$\(\(.*?\)\)|\$\{[^}]*\}|\$\w+", "\0", shell)
    return [*(text for path in python for text in _texts(path)), *values.splitlines()]


@pytest.fixture(scope="module")
def messages() -> str:
    return "\n".join(_messages())


@pytest.mark.parametrize("quoted", _QUOTED.findall(PAGE.read_text()))
def test_message_is_in_the_sources(quoted: str, messages: str) -> None:
    fixed = [re.escape(part) for part in quoted.strip(".").split("...")]
    # A value is a mark, or written out where the quotation leaves something out.
    assert re.search(r"[^\n]{1,60}?".join(fixed), messages), quoted


def test_no_message_is_explained_twice() -> None:
    headings = re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings))
