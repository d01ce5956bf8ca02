"""`hvdkit scale` on ranks: bad input, scripts whose speed is known, and real ones."""

from __future__ import annotations

import json
import re
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
from launch import LIKE_A_USER, ROOT, Finished, run_command
from rank_checks import Check
from rank_pool import RankPools

from hvdkit_cli.errors import CommandError
from hvdkit_cli.main import cli

JOBS: list[tuple[str, str, int]] = []
LONG_JOBS = [("measured", "mpi", 2), ("measured", "gloo", 3)]

HVDKIT = f"{sysconfig.get_path('scripts')}/hvdkit"
SCRIPT = [sys.executable, str(ROOT / "tests/scaled_script.py")]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


def scale(
    *arguments: str, output: Path, timeout: float = 120, env: Mapping[str, str] | None = None
) -> Finished:
    command = [HVDKIT, "scale", "--output", str(output), *arguments]
    return run_command(command, timeout=timeout, env=env)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ranks", "2,1", "--", "x"], "'2,1' is not in order, or has a number twice.* 1,2"),
        (["--ranks", "1,2,2", "--", "x"], "'1,2,2' is not in order, or has a number twice"),
        (["--ranks", "0,1", "--", "x"], "'0,1' is no list of numbers of ranks"),
        (["--ranks", "1,two", "--", "x"], "'1,two' is no list of numbers of ranks"),
        (["--ranks", "2", "--", "x"], "nothing to compare.*--ranks 2,4"),
        (["--ranks", "1,2", "--", "x", "{batch}"], "there is no --batch"),
        (["--ranks", "1,2", "--batch", "8", "--", "x"], "--batch 8 is nowhere in the command"),
        (["--ranks", "1,2", "-H", "h:1", "--", "x"], "2 ranks do not fit: there are 1 slots"),
        (
            ["--ranks", "1,4", "--scaling", "strong", "--batch", "6", "-H", "h:4", "--", "{batch}"],
            "--batch 6 can't be divided by 4",
        ),
        (
            ["--ranks", "2,3", "--scaling", "strong", "-H", "h:4", "--", "x"],
            "3 ranks are no multiple of 2",
        ),
        (["--ranks", "1,2", "--steps", "0", "--", "x"], "0 is not in the range"),
        (["--ranks", "1,2"], "Missing parameter: command"),
    ],
)
def test_command_lines_that_are_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    line = ["scale", "--output", str(tmp_path / "out"), *arguments]
    with pytest.raises((CommandError, click.ClickException)) as error:
        cli.main(line, standalone_mode=False)
    found = error.value
    text = f"{found.message} {found.remedy}" if isinstance(found, CommandError) else str(found)
    assert re.search(said, text), text
    assert list(tmp_path.rglob("starts/*")) == []


def found_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "scaling.json").read_text())
    return found


@pytest.mark.long
def test_a_script_whose_law_is_known(tmp_path: Path) -> None:
    """Through `hvdkit run`, with the batch divided by `hvdkit scale`."""
    options = ["--ranks", "1,2,4", "--rounds", "1", "--oversubscribe", "--json"]
    command = ["--", *SCRIPT, "0.2", "0"]
    job = scale(*options, *command, output=tmp_path, env=LIKE_A_USER).require_success()
    found = found_in(tmp_path)
    assert json.dumps(found, indent=1) in job.output
    weak, strong = found["series"]
    assert (weak["kind"], strong["kind"]) == ("weak", "strong")
    assert strong["law"]["serial"]["value"] == pytest.approx(0.2)
    assert strong["law"]["expected"]["value"] == pytest.approx(1 / (0.2 + 0.8 / 8))
    assert strong["law"]["check"]["miss"] == pytest.approx(0, abs=1e-6)
    assert weak["law"]["expected"]["value"] == pytest.approx(8)
    assert [size["ranks"] for size in strong["sizes"]] == [1, 2, 4]
    assert [round(size["rows_of_a_step"]) for size in weak["sizes"]] == [64, 128, 256]
    assert "Left out of the measured fit: ModelCheckpoint" in str(found["sentences"])
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in (tmp_path / "scaling.html").read_text()
    again = scale(*options, *command, output=tmp_path)
    assert "holds a measurement already" in again.output, again.describe()


TRAINING = """
import pathlib, sys
import keras, numpy as np
import hvdkit as hvd

hvd.init()
keras.utils.set_random_seed(SEED)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(400, 8)).astype("float32"), rng.normal(size=(400, 1)).astype("float32")
layers = [keras.layers.Input((8,)), keras.layers.Dense(64), keras.layers.Dense(1)]
model = keras.Sequential(layers)
OPTIONS
model.compile(hvd.DistributedOptimizer("sgd"), "mse", **compile)
try:
    model.fit(data, epochs=1, verbose=0, **fit)
    print("after fit")
finally:
    pathlib.Path("spoiled").touch()
"""
OPTIONS = """
data, compile = hvd.shard((x, y), 16, seed=1), {}
fit = dict(
    validation_data=hvd.shard((x, y), 10),
    callbacks=[
        keras.callbacks.CSVLogger("spoiled.csv"),
        hvd.callbacks.BackupAndRestore("spoiled"),
        keras.callbacks.EarlyStopping("val_loss", patience=0),
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
    ],
)
"""


def train(*arguments: str, options: str, folder: Path) -> Finished:
    """`hvdkit scale` of a real training, in a folder that it must not spoil."""
    script = folder / "train.py"
    seed = "hvd.rank()" if "Broadcast" in options else "1"
    script.write_text(TRAINING.replace("OPTIONS", options).replace("SEED", seed))
    few = ["--rounds", "1", "--warm-up", "4", "--steps", "30", "--output", "out"]
    command = [HVDKIT, "scale", *few, *arguments, "--", sys.executable, str(script)]
    return run_command(command, timeout=200, cwd=folder)


@pytest.mark.long
def test_a_real_training(tmp_path: Path) -> None:
    """Of 25 steps a rank, an epoch as it is and two with half of the batch."""
    options = ["--ranks", "1,2", "--scaling", "strong"]
    job = train(*options, options=OPTIONS, folder=tmp_path).require_success()
    (strong,) = found_in(tmp_path / "out")["series"]
    assert strong["kind"] == "strong"
    one, two = strong["sizes"]
    assert one["rows_of_a_step"] == pytest.approx(16, rel=0.02)
    assert two["rows_of_a_step"] == pytest.approx(16, rel=0.02)
    assert not one["sent"]
    assert two["sent"] > 0
    for size in (one, two):
        assert size["speed"]["value"] > 0
        assert sum(size["parts"].values()) == pytest.approx(size["step_seconds"], rel=0.3)
        assert size["cores_busy"] > 0
        assert size["limit"]
    assert two["parts"]["exchange"] > 0
    assert "Left out of the measured fit: CSVLogger, BackupAndRestore, EarlyStopping." in job.output
    require_unspoiled(tmp_path)


def require_unspoiled(folder: Path) -> None:
    """Assert that nothing was done but to train."""
    assert {each.name for each in folder.iterdir()} == {"train.py", "out"}
    for log in folder.rglob("rank*.log"):
        assert "after fit" not in log.read_text()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["mpirun", "gloo"])
def test_a_training_whose_batches_can_not_be_divided(launcher: str, tmp_path: Path) -> None:
    options = """
import tensorflow as tf
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
compile, fit = dict(steps_per_execution=2), {}
"""
    arguments = ["--ranks", "1,2", "--launcher", launcher]
    job = train(*arguments, options=options, folder=tmp_path).require_success()
    (weak,) = found_in(tmp_path / "out")["series"]
    assert weak["kind"] == "weak"
    assert "Strong scaling is left out: fit got data whose batches the script makes" in job.output
    assert "--batch 64 -- python train.py --batch-size {batch}" in job.output
    assert weak["sizes"][1]["parts"] is None
    assert weak["sizes"][1]["limit"].startswith("not known")
    require_unspoiled(tmp_path)


@pytest.mark.long
def test_a_training_whose_data_ends(tmp_path: Path) -> None:
    options = "data, compile, fit = ((x[:8], y[:8]) for _ in range(30)), {}, {}"
    job = train("--ranks", "1,2", "--scaling", "weak", options=options, folder=tmp_path)
    assert job.status == 1, job.describe()
    said = " ".join(job.output.split())
    assert "before 4 + 30 steps of fit were measured: its last fit made 30, and then" in said


@pytest.mark.long
def test_a_batch_in_the_command(tmp_path: Path) -> None:
    options = ["--ranks", "1,2", "--rounds", "1", "--batch", "64", "--", *SCRIPT]
    job = scale(*options, "0", "0.05", "{batch}", output=tmp_path).require_success()
    weak, strong = found_in(tmp_path)["series"]
    assert (weak["kind"], strong["kind"]) == ("weak", "strong")
    assert weak["sizes"][1]["limit"].startswith("exchange: 33 % of a step at 2 ranks")
    assert "weak, what limits 2 ranks: exchange: 33 %" in job.output.lower(), job.describe()


@pytest.mark.long
def test_a_script_that_divides_its_batch_itself(tmp_path: Path) -> None:
    code = "import os, sys; sys.argv[3] = str(64 // int(sys.argv[3])); " + (
        f"sys.path.insert(0, {str(ROOT / 'tests')!r}); import scaled_script; scaled_script.main()"
    )
    command = ["--", sys.executable, "-c", code, "0.5", "0", "{ranks}"]
    job = scale("--ranks", "1,2", "--rounds", "1", *command, output=tmp_path).require_success()
    (series,) = found_in(tmp_path)["series"]
    assert series["kind"] == "strong"
    assert "The script divides its batch by the ranks itself" in job.output, job.describe()
    strong = ["--ranks", "1,2", "--rounds", "1", "--scaling", "strong"]
    job = scale(*strong, *command, output=tmp_path / "more")
    assert job.status == 1, job.describe()
    said = "2 ranks, batch of a rank divided by 2, a step has 32 rows, and with 1 64"
    assert said in " ".join(job.output.split()), job.describe()


def python(code: str) -> list[str]:
    return ["--", sys.executable, "-c", code]


@pytest.mark.long
def test_a_script_that_ends_before(tmp_path: Path) -> None:
    job = scale("--ranks", "1,2", *python("print('all done')"), output=tmp_path)
    assert job.status == 1, job.describe()
    said = " ".join(job.output.split())
    assert "With 1 rank, the script ended before 10 + 50 steps of fit were measured" in said
    assert "there was no fit after hvd.init()" in said
    assert "all done" in said
    assert "of a loop of your own, make a train_step" in said


def test_a_script_that_fails(tmp_path: Path) -> None:
    code = "import sys; sys.exit('I have no data')"
    job = scale("--ranks", "1,2", *python(code), output=tmp_path)
    assert job.status == 1, job.describe()
    said = " ".join(job.output.split())
    assert "With 1 rank, the script ended with exit status 1." in said, job.describe()
    assert "I have no data" in said
    assert "try it alone: hvdkit run -np 1 -- " in said


@pytest.mark.long
def test_a_script_that_hangs(tmp_path: Path) -> None:
    code = "import os, time; print('PID', os.getpid(), flush=True); time.sleep(300)"
    options = ["--ranks", "1,2", "--time-limit", "3"]
    job = scale(*options, *python(code), output=tmp_path, timeout=60)
    assert job.status == 1, job.describe()
    assert "With 1 rank, 60 steps of fit were not made within 3 s." in job.output, job.describe()
    pid = re.search(r"PID (\d+)", (tmp_path / "starts/round1-ranks1/output.log").read_text())
    assert pid is not None, job.describe()
    assert not psutil.pid_exists(int(pid[1]))
