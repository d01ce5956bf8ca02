"""examples/gpt.py: the curve of one rank on every mesh, and a plan instead of an allocation."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest
from launch import LIKE_A_USER, Finished, run_ranks

# A small part of the standard library, and a small model that learns within a few steps.
TEXT = Path(sysconfig.get_path("stdlib")) / "json"
SMALL = (
    "--text", str(TEXT), "--vocabulary", "384", "--context", "32", "--layers", "2",
    "--batch-size", "8", "--epochs", "2", "--steps-per-epoch", "3", "--warmup-steps", "2",
    "--validation-batches", "1", "--learning-rate", "0.003", "--length", "3",
)  # fmt: skip

MESHES = [
    ("mpi", 2, "--pipeline 2 --micro-batches 2"),
    ("gloo", 2, "--tensor 2 --sequence-parallel"),
    ("mpi", 2, "--data 2"),
    ("mpi", 2, "--tensor 2"),
    ("mpi", 4, "--data 2 --tensor 2"),
    ("mpi", 4, "--data 2 --pipeline 2"),
    ("mpi", 4, "--pipeline 2 --tensor 2 --recompute"),
    ("mpi", 8, "--data 2 --pipeline 2 --tensor 2"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def alone(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The curves of one rank."""
    return _curves("python", 1, (), cache, tmp_path_factory.mktemp("alone"))


@pytest.mark.long
@pytest.mark.parametrize(("launcher", "ranks", "mesh"), MESHES)
def test_every_mesh_has_the_curve_of_one_rank(
    launcher: str,
    ranks: int,
    mesh: str,
    alone: dict[str, list[float]],
    cache: Path,
    tmp_path: Path,
) -> None:
    curves = _curves(launcher, ranks, mesh.split(), cache, tmp_path)
    assert curves.keys() == alone.keys()
    for name, values in alone.items():
        assert curves[name] == pytest.approx(values, rel=1e-4), name
    assert alone["val_loss"][1] < alone["val_loss"][0] - 0.1, "it did not learn"


def test_a_plan_needs_no_ranks_and_a_model_that_does_not_fit_is_not_made() -> None:
    large = ["examples/gpt.py", "--preset", "gpt3-175b", "--memory", "80", "--batch-size", "512"]
    plan = run_ranks("python", 1, [*large, "--plan", "--tensor", "8"], env=LIKE_A_USER, forked=True)
    _require_refusal(plan)
    # 2.6 TB: had it been made, this job would not have ended so.
    started = run_ranks("mpi", 2, large, env=LIKE_A_USER, forked=True)
    _require_refusal(started)
    assert started.output.count("It does not fit") == 1, started.describe()


def _require_refusal(finished: Finished) -> None:
    assert finished.status not in (0, None), finished.describe()
    assert "175,223.0 M parameters" in finished.output, finished.describe()
    assert "The smallest mesh with this memory a rank: data" in finished.output, finished.describe()


def _curves(
    launcher: str, ranks: int, mesh: Sequence[str], cache: Path, folder: Path
) -> dict[str, list[float]]:
    history = folder / "history.json"
    command = ["examples/gpt.py", *SMALL, *mesh, "--cache", str(cache), "--history", str(history)]
    finished = run_ranks(
        launcher, ranks, command, env=LIKE_A_USER, timeout=240, forked=True
    ).require_success()
    assert finished.output.count("text:") == 1, finished.describe()
    assert finished.output.count("def ") >= 1, finished.describe()
    return json.loads(history.read_text())["history"]
