"""Bad input: one clear error on every rank, and an exit status that is not 0, within seconds."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from launch import LAUNCHERS, ROOT, Finished, environment, run_ranks

SCRIPTS = ROOT / "tests" / "bad_input"
LIMIT_SECONDS = 60


@dataclass(frozen=True)
class Case:
    """A script that has to fail.

    Attributes:
        script: its name in tests/bad_input.
        arguments: its arguments.
        ranks: how many ranks run it.
        expected: texts that each rank prints; "{rank}" is the rank.
        silent: ranks that do not have to print anything, since they are the ones that are missing.
        on_rank_0: texts that rank 0 prints besides.
        launchers: what starts it.
        long: the launchers with which it adds little, run by `make test-long` only.
    """

    script: str
    expected: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    ranks: int = 2
    silent: tuple[int, ...] = ()
    on_rank_0: tuple[str, ...] = ()
    launchers: tuple[str, ...] = LAUNCHERS
    long: tuple[str, ...] = ()

    def __str__(self) -> str:
        last = [argument.split(",")[-1] for argument in self.arguments[-1:]]
        return "-".join([self.script.removesuffix(".py"), *last])


WAITED = (
    "CollectiveError: rank {rank} waited",
    "for ranks that did not come; the limit is 3 s (stall_timeout of hvd.init)",
)
LEFT = ("CollectiveError: rank {rank} could not finish", "another rank has left the job")

CASES = [
    Case(
        "before_init.py",
        ("NotInitializedError: reducing gradients needs", "call hvd.init() once"),
        ("fit",),
        long=("gloo",),
    ),
    Case(
        "different_models.py",
        (
            "RankMismatchError: the variables of model and optimizer differ between ranks",
            "float32 4x2 on rank 0, but float32 4x3 on rank 1",
        ),
        ("broadcast",),
        ranks=3,
        long=("gloo",),
    ),
    Case(
        "different_models.py",
        (
            "RankMismatchError: the gradients of the trainable variables differ between ranks",
            "float32 4x2 on rank 0, but float32 4x3 on rank 1",
        ),
        ("first_step",),
    ),
    Case(
        "different_values.py",
        (
            "RankMismatchError: the ranks differ in a collective",
            "rank 0 calls allreduce of float64 (2,) with hvd.Average; "
            "rank 1 calls allreduce of float64 (3,)",
        ),
        ranks=3,
        long=("mpi",),
    ),
    Case("different_collectives.py", WAITED, launchers=("mpi",)),
    Case(
        "missing_rank.py",
        (*WAITED, "in allreduce"),
        ("first",),
        ranks=3,
        silent=(1,),
        on_rank_0=("Missing ranks: 1!: [HorovodAllreduce]",),
    ),
    Case(
        "missing_rank.py",
        (*WAITED, "in allreduce"),
        ("cached",),
        silent=(1,),
        long=("gloo",),
        on_rank_0=("Missing ranks: 1!: [HorovodAllreduce]",),
    ),
    Case(
        "missing_rank.py",
        (*LEFT, "a training step of fit (in DistributedSGD/"),
        ("fit",),
        silent=(1,),
        on_rank_0=("Missing ranks: 1!: [", "DistributedSGD/bucket0_1of2"),
    ),
    Case(
        "one_rank_fails.py",
        (*LEFT, "allreduce"),
        ("error",),
        ranks=3,
        silent=(1,),
        long=("gloo",),
    ),
    Case(
        "one_rank_fails.py",
        (*LEFT, "a training step of fit (in DistributedSGD/"),
        ("fit",),
        silent=(1,),
        long=("mpi",),
    ),
    Case(
        "one_rank_fails.py",
        (*LEFT, "allreduce"),
        ("end",),
        silent=(1,),
        launchers=("mpi",),
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
            "ValueError: on rank 0",
            "batch_size is a positive number of rows, not 0",
        ),
        (
            "batch_size_negative,batch_size_float,batch_size_none,batch_size_on_one_rank,"
            "batch_size_0_dataset,batch_size_0",
        ),
        long=("gloo",),
    ),
    Case(
        "data.py",
        (
            "the PyDataset has 1 batches, fewer than the 3 ranks",
            "refused few_rows_dataset: on rank 0",
            "ValueError: on rank 0",
            "the data has 2 rows, fewer than the 3 ranks: start fewer ranks, or give more data",
        ),
        ("few_batches,few_rows_dataset,few_rows",),
        ranks=3,
        long=("mpi",),
    ),
    Case(
        "few_rows_in_batches.py",
        ("the data has fewer rows than the 2 ranks: start fewer ranks, or give more",),
        long=("gloo",),
    ),
    Case(
        "other_optimizer.py",
        (
            "refused subclass_of_keras2: my_script.Mine is an optimizer of Keras 2 or TensorFlow 1",
            "refused tensorflow1: tensorflow.python",
            "refused none: DistributedOptimizer takes a Keras 3 optimizer",
            "refused unknown_name",
            "TypeError: tf_keras.src.optimizers.adam.Adam is an optimizer of Keras 2",
            "use the one of the same name in keras.optimizers",
        ),
        ("subclass_of_keras2,tensorflow1,none,unknown_name,keras2",),
        long=("mpi",),
    ),
]


def lines_of_rank(output: str, rank: int) -> str:
    """What a rank printed, as the launchers mark it: "[1,0]<stderr>:" or "[0]<stderr>:"."""
    mark = re.compile(rf"^\[(?:[\w.-]+,)?{rank}\]<std(?:out|err)>: ?(.*)$", re.MULTILINE)
    return "\n".join(mark.findall(output))


def squeezed(text: str) -> str:
    """The text without white space: launchers break lines where they like."""
    return "".join(text.split())


def require_failure(job: Finished, what: object, seconds: float) -> None:
    """Fail the test unless the job ended by itself, with an exit status that is not 0."""
    print(f"{what}: {seconds:.1f} s")
    assert job.status is not None, job.describe()
    assert job.status != 0, job.describe()


def require_on_each_rank(job: Finished, case: Case) -> None:
    """Fail the test unless every rank says what is expected, and shows one error."""
    for rank in range(case.ranks):
        own = squeezed(lines_of_rank(job.output, rank))
        if rank in case.silent:
            continue
        for text in case.expected + (case.on_rank_0 if rank == 0 else ()):
            wanted = squeezed(text.replace("{rank}", str(rank)))
            assert wanted in own, f"rank {rank} did not print {text!r}; {job.describe()}"
        errors = own.count("Traceback(mostrecentcalllast)")
        assert errors == 1, f"rank {rank} shows {errors} errors; {job.describe()}"


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
def test_error_on_every_rank(case: Case, launcher: str) -> None:
    start = time.monotonic()
    job = run_ranks(
        launcher, case.ranks, [str(SCRIPTS / case.script), *case.arguments], timeout=LIMIT_SECONDS
    )
    require_failure(job, f"{case} {launcher}", time.monotonic() - start)
    require_on_each_rank(job, case)


@pytest.mark.parametrize("launcher", ["mpi", pytest.param("gloo", marks=pytest.mark.long)])
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
            f"ValueError: {text} is not a Keras model: it is not a .keras (zip) file",
        ),
        tuple(str(path) for path in (missing, empty_zip, folder, broken, old, text)),
    )
    start = time.monotonic()
    job = run_ranks(
        launcher, case.ranks, [str(SCRIPTS / case.script), *case.arguments], timeout=LIMIT_SECONDS
    )
    require_failure(job, f"load_model {launcher}", time.monotonic() - start)
    require_on_each_rank(job, case)


def test_every_call_before_init_is_refused() -> None:
    job = run_ranks("python", 1, [str(SCRIPTS / "before_init.py"), "all"], timeout=LIMIT_SECONDS)
    assert job.status == 0, job.describe()
    assert job.output.count("refused: ") >= 35, job.describe()


def test_call_before_init_without_a_launcher() -> None:
    command = [str(SCRIPTS / "before_init.py"), "allreduce"]
    job = run_ranks("python", 1, command, timeout=LIMIT_SECONDS)
    assert job.status == 1, job.describe()
    assert "NotInitializedError: hvd.allreduce() needs the other ranks" in job.output


def run_command(command: list[str]) -> tuple[Finished, float]:
    """Run a launcher's command line; it, and the seconds it took."""
    start = time.monotonic()
    finished = subprocess.run(
        command,
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    job = Finished(finished.returncode, finished.stdout + finished.stderr)
    return job, time.monotonic() - start


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        (["horovodrun", "--gloo"], "requested more processes (4) than there are available slots"),
        # Open MPI's words, through horovodrun as well.
        (["horovodrun"], "not enough slots available in the system to satisfy the 4"),
        (["mpirun"], "not enough slots available in the system to satisfy the 4"),
    ],
    ids=["horovodrun_gloo", "horovodrun", "mpirun"],
)
def test_more_ranks_than_slots(launcher: list[str], message: str) -> None:
    """The launchers refuse it themselves, before they start a rank."""
    script = [sys.executable, str(SCRIPTS / "ranks.py")]
    job, seconds = run_command([*launcher, "-np", "4", "-H", "localhost:2", *script])
    require_failure(job, f"{launcher[0]} -np 4 on 2 slots", seconds)
    assert squeezed(message).lower() in squeezed(job.output).lower(), job.describe()
    assert "runs" not in re.findall(r"rank \d of \d (\w+)", job.output), job.describe()


def horovod_with(folder: Path, **replaced: str) -> dict[str, str]:
    """The installed Horovod with files of other contents, and the variable that makes it first.

    Args:
        folder: where to put it.
        **replaced: the new contents of metadata.json (`metadata`) and of the library (`library`).
    """
    installed = Path(sysconfig.get_path("platlib"), "horovod")
    copy = folder / "horovod"
    for source in (installed, installed / "tensorflow"):
        target = copy / source.relative_to(installed)
        target.mkdir()
        for entry in source.iterdir():
            if entry.name not in ("tensorflow", "__pycache__"):
                (target / entry.name).symlink_to(entry)
    files = {"metadata": [copy / "metadata.json"], "library": copy.glob("tensorflow/mpi_lib*.so")}
    for name, text in replaced.items():
        for file in list(files[name]):
            file.unlink()
            file.write_text(text)
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"metadata": '{"tensorflow": "2.3.4"}', "library": "not a library"},
            "Horovod was built for TensorFlow 2.3.4, but TensorFlow",
        ),
        (
            {"metadata": '{"tensorflow": "2.3.4"}'},
            "Horovod was built for TensorFlow 2.3.4, but TensorFlow",
        ),
        ({"library": "not a library"}, "can't be loaded"),
    ],
    ids=["other_tensorflow", "other_tensorflow_that_loads", "broken_library"],
)
def test_horovod_built_for_another_tensorflow(
    replaced: dict[str, str], message: str, tmp_path: Path
) -> None:
    env = horovod_with(tmp_path, **replaced)
    command = ["-c", "import hvdkit"]
    job = run_ranks("python", 1, command, timeout=LIMIT_SECONDS, env=env, cwd=tmp_path)
    assert job.status == 1, job.describe()
    assert f"InstallationError: Horovod{'' if 'built' in message else chr(39) + 's'}" in job.output
    assert message in job.output, job.describe()
    assert "Run\n    hvdkit build\n" in job.output, job.describe()


def test_horovod_missing(tmp_path: Path) -> None:
    code = (
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'horovod' else find(name, *rest)\n"
        "import hvdkit"
    )
    job = run_ranks("python", 1, ["-c", code], timeout=LIMIT_SECONDS, cwd=tmp_path)
    assert job.status == 1, job.describe()
    assert "InstallationError: Horovod is not installed. Run\n    hvdkit build" in job.output


def test_tensorflow_missing() -> None:
    script = SCRIPTS / "without_tensorflow.py"
    job = run_ranks("python", 1, [str(script)], timeout=LIMIT_SECONDS)
    assert job.status == 1, job.describe()
    assert "InstallationError: TensorFlow is not installed" in job.output, job.describe()
    assert "pip install 'hvdkit[cpu]'" in job.output, job.describe()
    assert "hvdkit build" in job.output, job.describe()
    assert job.output.count("Traceback (most recent call last)") == 1, job.describe()
