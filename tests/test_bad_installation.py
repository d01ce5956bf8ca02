"""TensorFlow or Horovod is missing, broken, or one of another version: hvdkit says what to do."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from failing_jobs import LIMIT_SECONDS, SCRIPTS
from launch import LIKE_A_USER, run_ranks


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
    return {"PYTHONPATH": f"{folder}:{LIKE_A_USER['PYTHONPATH']}"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"metadata": '{"tensorflow": "2.3.4"}', "library": "not a library"},
            "Horovod was built for TensorFlow 2.3.4, but TensorFlow",
        ),
        pytest.param(
            {"metadata": '{"tensorflow": "2.3.4"}'},
            "Horovod was built for TensorFlow 2.3.4, but TensorFlow",
            marks=pytest.mark.long,
        ),
        ({"library": "not a library"}, "can't be loaded"),
    ],
    ids=["other_tensorflow", "other_tensorflow_that_loads", "broken_library"],
)
def test_horovod_built_for_another_tensorflow(
    replaced: dict[str, str], message: str, tmp_path: Path
) -> None:
    env = horovod_with(tmp_path, **replaced)
    command = ["-c", "import hvdkit; hvdkit.init()"]
    job = run_ranks("python", 1, command, timeout=LIMIT_SECONDS, env=env, cwd=tmp_path)
    assert job.status == 1, job.describe()
    assert f"InstallationError: Horovod{'' if 'built' in message else chr(39) + 's'}" in job.output
    assert message in job.output, job.describe()
    assert "Run\n    hvdkit build\n" in job.output, job.describe()


def test_horovod_missing(tmp_path: Path) -> None:
    code = (
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'horovod' else find(name, *rest)\n"
        "import hvdkit; hvdkit.init()"
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
