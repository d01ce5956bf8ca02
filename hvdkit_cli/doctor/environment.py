"""Findings from package metadata and short programs, with nothing imported."""

import json
import platform
import sys
from collections.abc import Mapping

from hvdkit_cli.building.toolchain import run, which
from hvdkit_cli.doctor.check import Check, fail, ok, skip
from hvdkit_cli.errors import CommandError
from hvdkit_cli.installed import (
    HOROVOD_VERSION,
    SUPPORTED_PYTHON,
    TensorFlow,
    distribution,
    find_tensorflow,
    require_supported,
)
from hvdkit_cli.record import BuildRecord, compiled_library, read_record

_BUILD = "hvdkit build"


def check_python() -> Check:
    """Say which Python this is, and whether it is supported."""
    version = platform.python_version()
    detail = f"{version} ({sys.executable})"
    if version not in SUPPORTED_PYTHON:
        return fail("Python", detail, f"install hvdkit with Python {SUPPORTED_PYTHON}")
    return ok("Python", detail)


def check_tensorflow() -> tuple[TensorFlow | None, Check]:
    """Say which TensorFlow is installed; None if there is none that can be used."""
    try:
        tensorflow = find_tensorflow()
    except CommandError as error:
        return None, fail("TensorFlow", error.message, error.remedy)
    detail = f"{tensorflow.distribution} {tensorflow.version}"
    detail += f" (CUDA {tensorflow.cuda})" if tensorflow.cuda else " (CPU)"
    try:
        require_supported(tensorflow)
    except CommandError as error:
        return tensorflow, fail("TensorFlow", f"{detail}. {error.message}", error.remedy)
    return tensorflow, ok("TensorFlow", detail)


def check_horovod() -> Check:
    """Say whether Horovod is installed, in the right version, with its compiled library."""
    found = distribution("horovod")
    if found is None:
        return fail("Horovod", "not installed", _BUILD)
    if found.version.split("+")[0] != HOROVOD_VERSION:
        return fail("Horovod", f"{found.version}, hvdkit needs {HOROVOD_VERSION}", _BUILD)
    if compiled_library() is None:
        return fail("Horovod", f"{found.version}, without its library for TensorFlow", _BUILD)
    return ok("Horovod", found.version)


def check_built_for(tensorflow: TensorFlow | None) -> Check:
    """Compare what Horovod was built for with what is installed."""
    name = "Horovod built for"
    if tensorflow is None or distribution("horovod") is None:
        return skip(name, "not looked at: TensorFlow or Horovod is missing")
    now = f"{tensorflow.distribution} {tensorflow.version}"
    record = read_record()
    if record is not None:
        return _compare_record(name, record, tensorflow, now)
    version = _metadata_version()
    if version is None:
        return fail(name, "unknown: Horovod's metadata.json is missing", _BUILD)
    if version != tensorflow.version:
        return fail(name, f"TensorFlow {version}, but {now} is installed", _BUILD)
    return ok(name, f"TensorFlow {version} (not by `hvdkit build`: only the version is known)")


def check_mpi(mpi_built: bool, env: Mapping[str, str]) -> Check:
    """Say which mpirun would start a job, and which MPI it belongs to."""
    if not mpi_built:
        return skip("MPI", "Horovod was built without it")
    mpirun = which(env, "mpirun")
    if mpirun is None:
        remedy = (
            "put the folder of your MPI's mpirun on PATH, or "
            f"{sys.executable} -m pip install 'hvdkit[mpi]' and {_BUILD}"
        )
        return fail("MPI", "there is no mpirun on PATH", remedy)
    told = run([str(mpirun), "--version"], env)
    if not told:
        return fail("MPI", f"{mpirun} --version failed", "reinstall the MPI it belongs to")
    record = read_record()
    linked = f"; Horovod built against {record.facts.get('mpi')}" if record else ""
    return ok("MPI", f"{told.strip().splitlines()[0]} ({mpirun}){linked}")


def _compare_record(name: str, record: BuildRecord, tensorflow: TensorFlow, now: str) -> Check:
    gpu = " --gpu" if record.facts.get("device") == "gpu" else ""
    built = record.facts.get("tensorflow", "unknown")
    if built != now:
        return fail(name, f"{built}, but {now} is installed", _BUILD + gpu)
    if record.facts.get("tensorflow_build") != tensorflow.build_id:
        return fail(name, f"{built}, but another build of it is installed", _BUILD + gpu)
    kind = "GPU" if gpu else "CPU"
    return ok(name, f"this very {built}, {kind} build")


def _metadata_version() -> str | None:
    library = compiled_library()
    if library is None:
        return None
    try:
        content = json.loads((library.parent.parent / "metadata.json").read_text())
    except (OSError, ValueError):
        return None
    version = content.get("tensorflow")
    return None if version is None else str(version)
