"""Run a probe with a time limit, and collect what it wrote."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvdkit_cli.building.process import end_tree
from hvdkit_cli.launched import OF_A_RANK, OF_GLOOS_RANKS

PROBE = Path(__file__).with_name("probe.py")

# Set by a launcher for its own ranks: a trial inside such a job starts one of its own.
_LAUNCHER = (
    *(*OF_A_RANK, *OF_GLOOS_RANKS, "PMIX_", "PMI_", "PRTE_", "HOROVOD_GLOO_"),
    # A GPU of another's job is not to be waited for by horovodrun's own settings.
    *("HOROVOD_TIMELINE", "HOROVOD_AUTOTUNE"),
)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        problem: Why it failed, in words; empty if it did not.
        output: The end of what it printed.
        results: What the probe wrote, one object a process.
    """

    problem: str = ""
    output: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)


def trial_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a trial: any user on any machine can start two ranks in it."""
    kept = {name: value for name, value in env.items() if not name.startswith(_LAUNCHER)}
    scripts = str(Path(sys.executable).parent)
    kept["PATH"] = os.pathsep.join([scripts, kept.get("PATH", os.defpath)])
    kept["TF_CPP_MIN_LOG_LEVEL"] = "2"
    # Open MPI 4 and 5 by turns: as many ranks as asked for, on any number of cores.
    kept["OMPI_MCA_rmaps_base_oversubscribe"] = "true"
    kept["PRTE_MCA_rmaps_default_mapping_policy"] = ":OVERSUBSCRIBE"
    kept["OMPI_MCA_mpi_yield_when_idle"] = "1"
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        kept["OMPI_ALLOW_RUN_AS_ROOT"] = kept["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    return kept


def imports_trial(env: Mapping[str, str], timeout: float) -> Outcome:
    """Import TensorFlow, Keras, Horovod and mpi4py; `timeout` is in seconds."""
    with tempfile.TemporaryDirectory(prefix="hvdkit-doctor-") as folder:
        target = Path(folder, "imports.json")
        command = [sys.executable, str(PROBE), "imports", str(target)]
        return _run(command, env, timeout, Path(folder))


def allreduce_trial(launcher: list[str], env: Mapping[str, str], timeout: float) -> Outcome:
    """Run the allreduce probe in the ranks that a launcher starts; `timeout` is in seconds."""
    with tempfile.TemporaryDirectory(prefix="hvdkit-doctor-") as folder:
        command = [*launcher, sys.executable, str(PROBE), "allreduce", folder]
        return _run(command, env, timeout, Path(folder))


def _run(command: list[str], env: Mapping[str, str], timeout: float, folder: Path) -> Outcome:
    log = folder / "output"
    try:
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )
            try:
                status = process.wait(timeout)
            except BaseException:
                end_tree(process.pid)
                raise
    except subprocess.TimeoutExpired:
        return Outcome(f"did not end within {timeout:g} s", _last(log))
    except OSError as error:
        return Outcome(f"could not start: {error}")
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    problem = f"exit status {status}" if status != 0 else ""
    return Outcome(problem, _last(log), results)


def _last(log: Path, lines: int = 5) -> str:
    text = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(text[-lines:])
