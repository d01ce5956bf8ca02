"""Look at an installation from the bottom up: Python to a two-rank job."""

import os
import sys
from typing import Any

from hvdkit_cli.doctor.check import Check, fail, ok, skip
from hvdkit_cli.doctor.environment import (
    check_built_for,
    check_horovod,
    check_mpi,
    check_python,
    check_tensorflow,
)
from hvdkit_cli.doctor.jobs import check_gloo_job, check_mpi4py_match, check_mpi_job
from hvdkit_cli.doctor.trial import Outcome, imports_trial, trial_environment

_BUILD = "hvdkit build"


def examine(timeout: float) -> list[Check]:
    """Examine this environment.

    Args:
        timeout: Seconds that each of at most three trials may take.

    Returns:
        The findings, in the order in which to mend them.
    """
    env = trial_environment(os.environ)
    checks = [check_python()]
    tensorflow, tensorflow_check = check_tensorflow()
    horovod = check_horovod()
    imports = imports_trial(env, timeout) if tensorflow else Outcome("TensorFlow is not there")
    found = imports.results[0] if imports.results else {}
    checks.append(_tensorflow_imports(tensorflow_check, imports, found))
    checks.append(_keras(found))
    checks.append(_horovod_imports(horovod, imports, found))
    built_for = check_built_for(tensorflow)
    checks.append(built_for)
    mpi_built = bool(found.get("mpi_built", True))
    checks.append(check_mpi(mpi_built, env))
    checks.append(_mpi4py(mpi_built, found))
    checks.append(_gloo(found))
    checks.append(_nccl(found))
    checks.append(_devices(found))
    if horovod.failed or "mpi_built" not in found:
        why = "Horovod does not import"
        checks += [skip("two ranks, MPI", why), skip("two ranks, Gloo", why)]
        return checks
    mpi_job, ranks = check_mpi_job(mpi_built, env, timeout)
    checks.append(mpi_job)
    checks.append(check_mpi4py_match(ranks))
    checks.append(check_gloo_job(bool(found.get("gloo_built")), env, timeout))
    return checks


def _tensorflow_imports(before: Check, imports: Outcome, found: dict[str, Any]) -> Check:
    if before.failed:
        return before
    problem = found.get("tensorflow_error") or ("" if found else imports.problem)
    if problem:
        return fail(
            before.name,
            f"{before.detail}, which does not import: {problem}\n{imports.output}".strip(),
            f"{sys.executable} -m pip install --force-reinstall {before.detail.split()[0]}",
        )
    return before


def _keras(found: dict[str, Any]) -> Check:
    if "keras_error" in found:
        remedy = f"{sys.executable} -m pip install --force-reinstall 'keras>=3.12'"
        return fail("Keras", f"does not import: {found['keras_error']}", remedy)
    if "keras" not in found:
        return skip("Keras", "not looked at: TensorFlow does not import")
    detail = f"{found['keras']} on {found['keras_backend']}"
    if not found["keras"].startswith("3."):
        return fail("Keras", detail, f"{sys.executable} -m pip install 'keras>=3.12,<4'")
    if found["keras_backend"] != "tensorflow":
        remedy = "export KERAS_BACKEND=tensorflow, or set it in ~/.keras/keras.json"
        return fail("Keras", detail, remedy)
    return ok("Keras", detail)


def _horovod_imports(before: Check, imports: Outcome, found: dict[str, Any]) -> Check:
    if before.failed or "tensorflow_error" in found:
        return before
    problem = found.get("horovod_error") or ("" if found else imports.problem)
    if problem:
        return fail(before.name, f"{before.detail}, which does not import: {problem}", _BUILD)
    return before


def _mpi4py(mpi_built: bool, found: dict[str, Any]) -> Check:
    if "mpi4py_library" in found:
        return ok("mpi4py", f"on {found['mpi4py_library']}")
    problem = found.get("mpi4py_error", "not looked at: the imports failed")
    if not mpi_built or "mpi4py_error" not in found:
        return skip("mpi4py", problem)
    remedy = f"{sys.executable} -m pip install --force-reinstall --no-deps 'mpi4py>=4.1'"
    return fail("mpi4py", problem, f"{remedy}; it needs the MPI library of the line above")


def _gloo(found: dict[str, Any]) -> Check:
    if "gloo_built" not in found:
        return skip("Gloo", "not looked at: Horovod does not import")
    if found["gloo_built"]:
        return ok("Gloo", "built")
    return fail("Gloo", "Horovod was built without it", _BUILD)


def _nccl(found: dict[str, Any]) -> Check:
    if "nccl_built" not in found:
        return skip("NCCL", "not looked at: Horovod does not import")
    if found["nccl_built"]:
        return ok("NCCL", f"built, {found['nccl_built']}")
    if found.get("gpus"):
        detail = "not built, but TensorFlow sees GPUs: gradients would go through the CPU"
        return fail("NCCL", detail, "hvdkit build --gpu")
    return skip("NCCL", "not built, and not needed: TensorFlow sees no GPU")


def _devices(found: dict[str, Any]) -> Check:
    usable, total = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    gpus = found.get("gpus")
    gpu_text = "GPUs unknown" if gpus is None else f"{len(gpus)} GPUs"
    return ok("devices", f"{usable} of {total} CPU cores usable, {gpu_text}")
