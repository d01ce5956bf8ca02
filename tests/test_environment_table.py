"""docs/environment.md names every environment variable that the sources do, and no other."""

from __future__ import annotations

import re

import pytest
from launch import ROOT

pytestmark = pytest.mark.quick

_VARIABLE = re.compile(r"(?<![\w.])(?:(?:HVDKIT|HOROVOD|OMPI|PRTE|TF)_[A-Z]\w*|KERAS_BACKEND)")
_TABLED = re.compile(r"`([A-Z][A-Z0-9]*_\w+)`")
_SOURCES = (
    *(path for folder in ("hvdkit", "hvdkit_cli") for path in (ROOT / folder).rglob("*.py")),
    *(path for path in (ROOT / "mpi").rglob("*") if path.suffix in (".sh", ".sbatch", ".yaml")),
    ROOT / "Makefile",
)
# Of Python and C, not of the environment.
_NO_VARIABLES = {"HOROVOD_VERSION", "HOROVOD_VARIABLES", "OMPI_MAJOR_VERSION"}


def _named_in_sources() -> set[str]:
    text = "\n".join(path.read_text() for path in _SOURCES)
    names = {name for name in _VARIABLE.findall(text) if not name.endswith("_")}
    return names - _NO_VARIABLES


def test_every_variable_is_in_the_table() -> None:
    tabled = set(_TABLED.findall((ROOT / "docs/environment.md").read_text()))
    assert _named_in_sources() - tabled == set()


def test_the_table_has_no_variable_that_nothing_reads() -> None:
    text = "\n".join(path.read_text() for path in _SOURCES)
    tabled = _TABLED.findall((ROOT / "docs/environment.md").read_text())
    assert [name for name in tabled if name not in text] == []
