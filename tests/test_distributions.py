"""What `python -m build` makes holds what it has to, and works where there is no checkout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from launch import ROOT

_NOT_OF_THE_CHECKOUT = shutil.ignore_patterns(
    ".git", ".venv*", "build", "dist", "site", "*.egg-info", "__pycache__", ".*_cache"
)


@dataclass(frozen=True)
class Built:
    """The two files that a release consists of."""

    wheel: Path
    sdist: Path

    def wheel_files(self) -> dict[str, bytes]:
        """The contents of the wheel by name."""
        return _files_of(self.wheel)

    def unpack(self, folder: Path) -> Path:
        """Unpack the sdist into a folder; the folder of the project in it."""
        with tarfile.open(self.sdist) as archive:
            archive.extractall(folder, filter="data")
        return folder / self.sdist.name.removesuffix(".tar.gz")


def _files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _run(*command: str | Path, cwd: Path) -> str:
    """Run a command as in a shell of a user, who has no checkout on the path; what it printed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**env, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _build(project: Path, folder: Path) -> Built:
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, project, cwd=folder)
    [wheel] = folder.glob("*.whl")
    [sdist] = folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, from a copy of the checkout: what earlier builds left in it does not count."""
    folder = tmp_path_factory.mktemp("distributions")
    project = folder / "project"
    shutil.copytree(ROOT, project, symlinks=True, ignore=_NOT_OF_THE_CHECKOUT)
    target = folder / "dist"
    target.mkdir()
    return _build(project, target)


def _version() -> str:
    """The version as it is written in the one place that has it."""
    for node in ast.parse((ROOT / "hvdkit/__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return ast.literal_eval(node.value)
    raise AssertionError("hvdkit/__init__.py has no __version__")


def test_changelog_begins_with_the_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == ("Unreleased" if ".dev" in _version() else _version())


def test_wheel_has_packages_types_and_scripts(built: Built) -> None:
    assert built.wheel.name == f"hvdkit-{_version()}-py3-none-any.whl"
    files = {name for name in built.wheel_files() if ".dist-info/" not in name}
    assert {"hvdkit/py.typed", "hvdkit_cli/py.typed"} <= files
    sources = {
        str(path.relative_to(ROOT))
        for folder in ("hvdkit", "hvdkit_cli")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".h")
    }
    scripts = {f"hvdkit_cli/{path.relative_to(ROOT)}" for path in (ROOT / "mpi").rglob("*.*")}
    assert sources | scripts <= files
    assert {name.split("/")[0] for name in files} == {"hvdkit", "hvdkit_cli"}


def test_sdist_has_what_a_checkout_has(built: Built, tmp_path: Path) -> None:
    project = built.unpack(tmp_path)
    missing = [
        str(path.relative_to(ROOT))
        for name in ("benchmarks", "docs", "examples", "mpi", "tests", "hvdkit", "hvdkit_cli")
        for path in (ROOT / name).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not (project / path.relative_to(ROOT)).is_file()
    ]
    at_the_top = ["CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"]
    at_the_top += ["constraints.txt", "mkdocs.yml", "pyproject.toml", "setup.cfg"]
    assert missing == []
    assert [name for name in at_the_top if not (project / name).is_file()] == []


@pytest.mark.long
def test_sdist_builds_the_same_wheel(built: Built, tmp_path: Path) -> None:
    project = built.unpack(tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    assert _build(project, again).wheel_files() == built.wheel_files()


@pytest.mark.long
def test_wheel_works_elsewhere(built: Built, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin/python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    _run(*pip, "install", "--no-index", "--no-deps", built.wheel, cwd=tmp_path)
    # Everything else comes from here, behind what has been installed there.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(_run(python, "-c", where, cwd=tmp_path).strip())
    others = [folder for folder in sys.path if folder.endswith("-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")

    command = environment / "bin/hvdkit"
    assert "build" in _run(command, "--help", cwd=tmp_path)
    assert _version() in _run(command, "--version", cwd=tmp_path)
    assert "-np N" in _run(command, "mpirun", "--help", cwd=tmp_path)
    show = "import hvdkit; print(hvdkit.__file__, hvdkit.__version__)"
    assert _run(python, "-c", show, cwd=tmp_path).split() == [
        str(site / "hvdkit/__init__.py"),
        _version(),
    ]
