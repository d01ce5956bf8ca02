"""The examples run unchanged as one process, over MPI, over Gloo, and on several local devices."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from launch import LIKE_A_USER, Finished, run_ranks

# digits.py runs over MPI with its defaults, and as one process on two devices, see below.
RUNS = [("examples/digits.py", "gloo", 2)]
LONG_RUNS = [
    pytest.param(*run, marks=pytest.mark.long)
    for run in (
        ("examples/digits.py", "python", 1),
        ("examples/digits.py", "mpi", 2),
        ("examples/custom_loop.py", "python", 1),
        ("examples/custom_loop.py", "mpi", 2),
        ("examples/custom_loop.py", "gloo", 2),
    )
]


def _require_result(finished: Finished, ranks: int, at_least: float) -> None:
    """The accuracy and the proof of equal weights are there once; so are lines of an epoch."""
    output = finished.require_success().output
    accuracies = re.findall(r"test accuracy: ([\d.]+)", output)
    assert len(accuracies) == 1, finished.describe()
    assert float(accuracies[0]) > at_least, finished.describe()
    proofs = re.findall(r"the same on all (\d+) ranks, SHA-256 [0-9a-f]{16}", output)
    assert proofs == [str(ranks)], finished.describe()
    first_epoch = re.findall(r"(?im)epoch 1(?:/\d+|:)", output)
    assert len(first_epoch) == 1, finished.describe()


@pytest.mark.parametrize(("example", "launcher", "ranks"), [*RUNS, *LONG_RUNS])
def test_example(example: str, launcher: str, ranks: int) -> None:
    finished = run_ranks(launcher, ranks, [example, "--epochs", "3"], env=LIKE_A_USER, forked=True)
    _require_result(finished, ranks, at_least=0.85)


@pytest.mark.long
def test_defaults_reach_the_accuracy_and_the_best_model_is_saved(tmp_path: Path) -> None:
    saved = tmp_path / "best.keras"
    finished = run_ranks(
        "mpi", 2, ["examples/digits.py", "--save", str(saved)], env=LIKE_A_USER, forked=True
    )
    _require_result(finished, 2, at_least=0.95)
    assert zipfile.is_zipfile(saved)


@pytest.mark.long
def test_mirrored_strategy() -> None:
    finished = run_ranks(
        "python",
        1,
        ["examples/digits.py", "--epochs", "3", "--cpu-devices", "2"],
        env=LIKE_A_USER,
        forked=True,
    )
    _require_result(finished, 1, at_least=0.85)
    # Two devices take twice the rows of one in a step: 1437 rows in batches of 2 x 16.
    assert "45/45" in finished.output, finished.describe()


@pytest.mark.long
def test_mirrored_strategy_in_each_of_several_ranks() -> None:
    arguments = ["--strategy", "mirrored", "--cpu-devices", "2", "--epochs", "3"]
    finished = run_ranks("mpi", 2, ["examples/digits.py", *arguments], env=LIKE_A_USER, forked=True)
    _require_result(finished, 2, at_least=0.85)
    assert "23/23" in finished.output, finished.describe()


@pytest.mark.long
def test_mirrored_strategy_needs_several_devices() -> None:
    finished = run_ranks(
        "mpi", 2, ["examples/digits.py", "--strategy", "mirrored"], env=LIKE_A_USER, forked=True
    )
    assert finished.status not in (0, None), finished.describe()
    assert "is for ranks with several devices" in finished.output, finished.describe()


DIFFERENT_WEIGHTS = """
import sys
sys.path.insert(0, "examples")
import keras
import digits
import hvdkit as hvd
hvd.init()
keras.utils.set_random_seed(hvd.rank())
digits.require_same_weights(digits.build_model())
"""


def test_different_weights_are_noticed(tmp_path: Path) -> None:
    script = tmp_path / "different.py"
    script.write_text(DIFFERENT_WEIGHTS)
    finished = run_ranks("mpi", 2, [str(script)], env=LIKE_A_USER, forked=True)
    assert finished.status not in (0, None), finished.describe()
    assert "the ranks hold different weights" in finished.output, finished.describe()
