"""Findings from real jobs of two ranks."""

import sys
from collections.abc import Mapping
from typing import Any

from hvdkit_cli.building.toolchain import run, which
from hvdkit_cli.doctor.check import Check, fail, ok, skip
from hvdkit_cli.doctor.trial import Outcome, allreduce_trial

_RANKS = 2
Ranks = list[dict[str, Any]]


def check_mpi_job(mpi_built: bool, env: Mapping[str, str], timeout: float) -> tuple[Check, Ranks]:
    """Run a two-rank allreduce under mpirun.

    Returns:
        The finding, and what each rank saw.
    """
    name = "two ranks, MPI"
    mpirun = which(env, "mpirun")
    if not mpi_built:
        return skip(name, "Horovod was built without MPI"), []
    if mpirun is None:
        return skip(name, "there is no mpirun on PATH"), []
    launcher = [str(mpirun), "-np", str(_RANKS)]
    if "Open MPI" in (run([str(mpirun), "--version"], env) or ""):
        launcher += ["--bind-to", "none", "-H", f"localhost:{_RANKS}"]
    outcome = allreduce_trial(launcher, {**env, "HOROVOD_CONTROLLER": "mpi"}, timeout)
    remedy = (
        "check that this mpirun belongs to the MPI that Horovod was built against (the MPI line), "
        "or run `hvdkit build` with that mpirun's folder first on PATH"
    )
    return _judge(name, outcome, remedy), outcome.results


def check_gloo_job(gloo_built: bool, env: Mapping[str, str], timeout: float) -> Check:
    """Run a two-rank allreduce under `horovodrun --gloo`."""
    name = "two ranks, Gloo"
    if not gloo_built:
        return skip(name, "Horovod was built without Gloo")
    launcher = [sys.executable, "-m", "horovod.runner.launch"]
    launcher += ["--gloo", "-np", str(_RANKS), "-H", f"localhost:{_RANKS}"]
    outcome = allreduce_trial(launcher, env, timeout)
    remedy = (
        'check that this host\'s name resolves (getent hosts "$(hostname)") and that a firewall '
        "lets processes here reach each other; horovodrun's --network-interfaces picks another "
        "interface"
    )
    return _judge(name, outcome, remedy)


def check_mpi4py_match(ranks: Ranks) -> Check:
    """Say whether mpi4py and Horovod were on one MPI library in the ranks of the MPI job."""
    name = "one MPI for both"
    if not ranks:
        return skip(name, "no MPI job ran")
    if "mpi4py_error" in ranks[0]:
        remedy = f"{sys.executable} -m pip install --force-reinstall --no-deps 'mpi4py>=4.1'"
        return fail(name, ranks[0]["mpi4py_error"], remedy)
    loaded = ranks[0].get("loaded_mpis", [])
    if len(loaded) > 1:
        remedy = (
            "build Horovod against the MPI that mpi4py finds (hvdkit build --mpi PATH), or set "
            "MPI4PY_LIBMPI to Horovod's"
        )
        return fail(name, f"mpi4py and Horovod load {' and '.join(loaded)}", remedy)
    return ok(name, ", ".join(loaded) or ranks[0].get("mpi4py_library", "unknown"))


def _judge(name: str, outcome: Outcome, remedy: str) -> Check:
    ranks = outcome.results
    if outcome.problem:
        return fail(name, f"{outcome.problem}\n{outcome.output}".strip(), remedy)
    sizes = sorted(int(rank["size"]) for rank in ranks)
    if sizes != [_RANKS] * _RANKS:
        detail = f"ranks did not find each other (sizes {sizes})"
        return fail(name, f"{detail}\n{outcome.output}".strip(), remedy)
    wrong = [rank for rank in ranks if rank["sum"] != rank["expected"]]
    if wrong:
        return fail(name, f"allreduce gave {wrong[0]['sum']}, not {wrong[0]['expected']}", remedy)
    return ok(name, f"allreduce over {_RANKS} ranks is right")
