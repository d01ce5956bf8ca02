"""The documentation names what is public, its links lead somewhere, and its examples run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from launch import LIKE_A_USER, ROOT, run_ranks
from rank_checks import Check, Ranks
from rank_pool import RankPools

FOLDERS = ("docs", "deploy", "mpi", "examples", "benchmarks", "tests", "hvdkit", "hvdkit_cli")
PAGES = sorted(
    page.relative_to(ROOT)
    for page in [
        *ROOT.glob("*.md"),
        *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md")),
    ]
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


_API_ENTRY = re.compile(r"^### (?:::: )?hvdkit\.([\w.]+)$", re.MULTILINE)
_PRINT_PUBLIC_NAMES = """
import inspect, hvdkit as hvd
for name in hvd.__all__:
    thing = getattr(hvd, name)
    inside = [f"{name}.{member}" for member in thing.__all__] if inspect.ismodule(thing) else [name]
    print(*[f"public: {name}" for name in inside], sep="\\n")
"""


def _anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(_CODE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def _examples(wanted: Callable[[str], bool], usual: tuple[str, ...] = ()) -> list:
    """The code blocks that are whole scripts, of those that are wanted; long but on usual pages."""
    return [
        pytest.param(
            code,
            id=f"{page}-{number}",
            marks=[] if str(page) in usual else [pytest.mark.long],
        )
        for page in PAGES
        for number, code in enumerate(_PYTHON.findall((ROOT / page).read_text()))
        if wanted(code)
        and ("hvd.init()\n" in code or "hvd.init()  #" in code)
        # What starts the ranks itself, with functions of a notebook.
        and not re.search(r"hvd\.((ray|spark)\.)?run\(", code)
    ]


def test_api_pages_have_every_public_name_once() -> None:
    job = run_ranks("python", 1, ["-c", _PRINT_PUBLIC_NAMES]).require_success()
    pages = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    public = re.findall(r"^public: (\S+)$", job.output, re.MULTILINE)
    assert sorted(_API_ENTRY.findall(pages)) == sorted(public)


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links(page: Path) -> None:
    text = _CODE.sub("", (ROOT / page).read_text())
    broken = []
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / page if not path else (ROOT / page).parent / path
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in _anchors(target)
        ):
            broken.append(link)
    assert not broken


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    code = "\n".join(re.findall(r"^```.*?^```|`[^`\n]+`", (ROOT / page).read_text(), re.M | re.S))
    named = set(re.findall(r"(?m)(?:^|`)make ([a-z][a-z-]*)", code))
    assert named <= targets


@pytest.mark.quick
def test_readme_starts_with_the_two_commands() -> None:
    first_block = _CODE.findall((ROOT / "README.md").read_text())[0]
    assert re.findall(r"(?m)^make (\w+)", first_block) == ["demo", "test"]


# One after another on the same ranks, with all packages that are installed.
_PATHS = (ROOT, ROOT / "tests", ROOT / "tests/without_pandas")
RANKS = Ranks("mpi", 2, (("PYTHONPATH", os.pathsep.join(map(str, _PATHS))),))
# Examples of other pages are long tests.
_USUAL_PAGES = ("README.md", "docs/concepts.md", "docs/parallelism.md", "docs/data.md")
# What is set before TensorFlow starts needs a process of its own.
_NEEDS_A_START = "set_logical_device_configuration"


@pytest.mark.parametrize("code", _examples(lambda code: _NEEDS_A_START not in code, _USUAL_PAGES))
def test_example_runs(code: str, pools: RankPools, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(code)
    pools.require(Check(tmp_path.name, str(script), "script", RANKS))


@pytest.mark.long
@pytest.mark.parametrize(("launcher", "ranks"), [("mpi", 2), ("python", 1)])
@pytest.mark.parametrize("code", _examples(lambda code: _NEEDS_A_START in code))
def test_example_that_needs_a_start_runs(
    code: str, launcher: str, ranks: int, tmp_path: Path
) -> None:
    _require_runs(code, launcher, ranks, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("launcher", "ranks"), [("python", 1), ("mpi", 2)])
@pytest.mark.parametrize("code", _examples(lambda code: _NEEDS_A_START not in code))
def test_example_runs_by_itself(code: str, launcher: str, ranks: int, tmp_path: Path) -> None:
    _require_runs(code, launcher, ranks, tmp_path)


def _require_runs(code: str, launcher: str, ranks: int, folder: Path) -> None:
    script = folder / "train.py"
    script.write_text(code)
    job = run_ranks(launcher, ranks, [str(script)], cwd=folder, env=LIKE_A_USER, forked=True)
    job.require_success()
