"""The versions of Keras that setup.cfg allows are those that hvdkit works with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from launch import LAUNCHERS, ROOT, run_ranks

LOWEST, HIGHEST = "==3.13.*", ">=3.13,<3.16"
CHECKS = [
    "check_sgd_momentum_nesterov",
    "check_adam_by_name",
    "check_global_clipnorm",
    "check_mixed_bfloat16",
    "check_steps_per_execution",
]


def _contract(folder: Path | None = None) -> None:
    first = [] if folder is None else [str(folder)]
    env = {"PYTHONPATH": ":".join([*first, str(ROOT), str(ROOT / "tests")])}
    run_ranks("python", 1, ["tests/keras_contract.py"], timeout=60, env=env).require_success()


def test_names_past_the_public_api_exist() -> None:
    _contract()


def test_metadata_and_check_allow_the_same_versions() -> None:
    said = re.search(r"^    keras(.*)$", (ROOT / "setup.cfg").read_text(), re.M)
    checked = re.search(
        r'SUPPORTED_KERAS = "(.*)"', (ROOT / "hvdkit/engine/versions.py").read_text()
    )
    assert said is not None
    assert checked is not None
    assert said[1] == checked[1] == HIGHEST


@pytest.mark.long
@pytest.mark.parametrize(
    "version",
    [
        "3.16.0",
        *(pytest.param(version, marks=pytest.mark.long) for version in ("3.12.4", "2.15.0")),
    ],
)
def test_other_versions_are_refused(version: str) -> None:
    code = f"import keras; keras.__version__ = {version!r}; import hvdkit; hvdkit.init()"
    job = run_ranks("python", 1, ["-c", code], timeout=60)
    assert job.status == 1, job.describe()
    assert f"but Keras {version} is installed. Run\n    pip install 'keras" in job.output


@pytest.mark.long
@pytest.mark.parametrize("version", [LOWEST, HIGHEST], ids=["lowest", "highest"])
def test_lowest_and_highest_version(version: str, tmp_path: Path) -> None:
    """From the package index, into a folder that only this test's jobs see."""
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, f"keras{version}"], check=True, timeout=300)
    _contract(tmp_path)
    paths = [tmp_path, ROOT, ROOT / "tests", ROOT / "tests" / "lean"]
    env = {"PYTHONPATH": ":".join(map(str, paths))}
    for launcher in LAUNCHERS:
        command = ["tests/worker.py", "optimizers", str(tmp_path), *CHECKS]
        run_ranks(launcher, 2, command, timeout=240, env=env).require_success()
