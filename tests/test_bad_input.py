"""Bad input: one clear error that names the ranks, and an exit status that is not 0, in seconds.

What a rank can catch is in `checks/refused_input.py`; jobs that end by it are long tests, but for
one of each kind of end.
"""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import pytest
from failing_jobs import LIMIT_SECONDS, SCRIPTS, Case, require_failure, require_on_each_rank
from launch import LAUNCHERS, run_ranks
from rank_checks import Check
from rank_pool import RankPools

JOBS = [("refused_input", "mpi", 2)]
LONG_JOBS = [("refused_input", "gloo", 3)]

MISSING = ("rank 1 (host", "is missing: it is busy elsewhere", "time.sleep(600)")

CASES = [
    Case(
        "before_init.py",
        ("NotInitializedError: reducing gradients needs", "call hvd.init() once"),
        ("fit",),
        long=LAUNCHERS,
    ),
    Case(
        "different_models.py",
        arguments=("broadcast",),
        error=(
            "RankMismatchError: the variables of model and optimizer differ between ranks",
            "float32 (4, 2) on rank 0, but float32 (4, 3) on rank 1",
        ),
        ranks=3,
        long=LAUNCHERS,
    ),
    Case(
        "different_models.py",
        arguments=("first_step",),
        error=(
            "RankMismatchError: the gradients of the trainable variables differ between ranks",
            "float32 (4, 2) on rank 0, but float32 (4, 3) on rank 1",
        ),
        long=LAUNCHERS,
    ),
    Case(
        "different_values.py",
        error=(
            "RankMismatchError: the ranks differ in a collective",
            "rank 0 calls allreduce of float64 (2,) with hvd.Average; "
            "rank 1 calls allreduce of float64 (3,)",
        ),
        ranks=3,
        long=("mpi",),
    ),
    Case(
        "different_collectives.py",
        error=("rank 0", "rank 1", "waited", "in allgather", "in broadcast"),
        named="the ranks wait for each other in different collectives",
        traceback=False,
        launchers=("mpi",),
        long=("mpi",),
    ),
    Case(
        "stops_alone.py",
        ranks=3,
        error=("in training step 5 of fit", "no rank can come any more", "'hvdkit.stop_training'"),
        named="the ranks wait for each other in different collectives",
        traceback=False,
        long=LAUNCHERS,
    ),
    Case(
        "missing_rank.py",
        arguments=("first",),
        ranks=3,
        error=("ranks 0, 2 waited", "in allreduce (the limit is 3 s", *MISSING),
        named="rank 1 stopped taking part:",
        traceback=False,
        long=LAUNCHERS,
    ),
    Case(
        "missing_rank.py",
        arguments=("cached",),
        error=("rank 0 waited", "in allreduce (the limit is 3 s", *MISSING),
        named="rank 1 stopped taking part:",
        traceback=False,
        long=LAUNCHERS,
    ),
    Case(
        "missing_rank.py",
        arguments=("fit",),
        error=("in training step 4 of fit (allreduce 'DistributedSGD/bucket0')", *MISSING),
        named="rank 1 stopped taking part:",
        traceback=False,
        long=("gloo",),
    ),
    Case(
        "missing_stage.py",
        ranks=3,
        error=("ranks 0, 2 waited", "in a training step of the pipeline (the limit is 3", *MISSING),
        named="rank 1 stopped taking part:",
        traceback=False,
        launchers=("mpi",),
        long=("mpi",),
    ),
    Case(
        "pipeline_over_gloo.py",
        error=("HvdkitError: a pipeline sends activations", "Start it with mpirun"),
        launchers=("gloo",),
    ),
    Case(
        "parameter_server.py",
        error=("HvdkitError: a parameter server sends weights", "Start it with mpirun"),
        launchers=("gloo",),
    ),
    Case(
        "one_rank_fails.py",
        arguments=("error",),
        ranks=3,
        error=("KeyError: 'only on rank 1'",),
        named="an exception on rank 1 (host",
        long=LAUNCHERS,
    ),
    Case(
        "one_rank_fails.py",
        arguments=("fit",),
        error=("KeyError: 'only on rank 1'",),
        named="an exception on rank 1 (host",
        long=LAUNCHERS,
    ),
    Case(
        "one_rank_fails.py",
        arguments=("end",),
        error=("came to the end of its script", "rank 0 could not finish allreduce"),
        named="rank 1 left while other ranks still needed it",
        traceback=False,
        launchers=("mpi",),
        long=("mpi",),
    ),
    Case(
        "data.py",
        (
            "refused batch_size_negative: on rank 0",
            "batch_size is a positive number of rows, not -4",
            "refused batch_size_float",
            "batch_size is a positive number of rows, not 2.5",
            "refused batch_size_none",
            "hvd.shard needs batch_size",
            "refused batch_size_on_one_rank: on rank 1 (",
            "batch_size is a positive number of rows, not -1",
        ),
        (
            "batch_size_negative,batch_size_float,batch_size_none,batch_size_on_one_rank,"
            "batch_size_0_dataset,batch_size_0",
        ),
        error=("ValueError: on rank 0", "batch_size is a positive number of rows, not 0"),
        long=LAUNCHERS,
    ),
    Case(
        "data.py",
        (
            "the PyDataset has 1 batches, fewer than the 3 ranks",
            "refused few_rows_dataset: on rank 0",
        ),
        ("few_batches,few_rows_dataset,few_rows",),
        error=(
            "ValueError: on rank 0",
            "the data has 2 rows, fewer than the 3 ranks: start fewer ranks, or give more data",
        ),
        ranks=3,
        long=LAUNCHERS,
    ),
    Case(
        "few_rows_in_batches.py",
        error=("the data has fewer rows than the 2 ranks: start fewer ranks, or give more",),
        long=LAUNCHERS,
    ),
    Case(
        "other_optimizer.py",
        (
            "refused subclass_of_keras2: my_script.Mine is an optimizer of Keras 2 or TensorFlow 1",
            "refused tensorflow1: tensorflow.python",
            "refused none: DistributedOptimizer takes a Keras 3 optimizer",
            "refused unknown_name",
        ),
        ("subclass_of_keras2,tensorflow1,none,unknown_name,keras2",),
        error=(
            "TypeError: tf_keras.src.optimizers.adam.Adam is an optimizer of Keras 2",
            "use the one of the same name in keras.optimizers",
        ),
        long=LAUNCHERS,
    ),
]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


@pytest.mark.parametrize(
    ("case", "launcher"),
    [
        pytest.param(
            case,
            launcher,
            id=f"{case}-{launcher}",
            marks=[pytest.mark.long] if launcher in case.long else [],
        )
        for case in CASES
        for launcher in case.launchers
    ],
)
def test_one_error(case: Case, launcher: str) -> None:
    start = time.monotonic()
    job = run_ranks(
        launcher,
        case.ranks,
        [str(SCRIPTS / case.script), *case.arguments],
        timeout=LIMIT_SECONDS,
        forked=case.traceback,  # in the others, ranks fail without an error
    )
    require_failure(job, f"{case} {launcher}", time.monotonic() - start)
    require_on_each_rank(job, case)


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_load_model_of_no_model(launcher: str, tmp_path: Path) -> None:
    text, empty_zip, folder = (tmp_path / name for name in ("a.keras", "b.keras", "c.keras"))
    text.write_text("no model")
    with zipfile.ZipFile(empty_zip, "w") as archive:
        archive.writestr("readme.txt", "no model")
    broken = tmp_path / "d.keras"
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
    folder.mkdir()
    old = tmp_path / "e.h5"
    old.write_text("no model")
    missing = tmp_path / "missing.keras"
    case = Case(
        "not_a_model.py",
        (
            f"refused: there is no file {missing}",
            f"refused: {empty_zip} is not a Keras model: it holds no config.json",
            f"refused: {folder} is a folder",
            f"refused: {broken} can't be loaded as a Keras model",
            f"refused: {old} is not a Keras model",
        ),
        tuple(str(path) for path in (missing, empty_zip, folder, broken, old, text)),
        error=(f"ValueError: {text} is not a Keras model: it is not a .keras (zip) file",),
    )
    start = time.monotonic()
    job = run_ranks(
        launcher,
        case.ranks,
        [str(SCRIPTS / case.script), *case.arguments],
        timeout=LIMIT_SECONDS,
        forked=True,
    )
    require_failure(job, f"load_model {launcher}", time.monotonic() - start)
    require_on_each_rank(job, case)


def test_every_call_before_init_is_refused() -> None:
    command = [str(SCRIPTS / "before_init.py"), "all"]
    job = run_ranks("python", 1, command, timeout=LIMIT_SECONDS, forked=True)
    assert job.status == 0, job.describe()
    assert job.output.count("refused: ") >= 35, job.describe()


def test_call_before_init_without_a_launcher() -> None:
    command = [str(SCRIPTS / "before_init.py"), "allreduce"]
    job = run_ranks("python", 1, command, timeout=LIMIT_SECONDS, forked=True)
    assert job.status == 1, job.describe()
    assert "NotInitializedError: hvd.allreduce() needs the other ranks" in job.output
