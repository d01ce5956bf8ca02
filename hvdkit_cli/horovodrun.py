"""`horovodrun`, Horovod's launcher, quick to start and with options that Open MPI 5 understands.

Horovod 0.28.1 passes `-bind-to none`; Open MPI 5 takes the `none` for the program to start. The
same options with two dashes are right for Open MPI 4 and 5. To know whether it was built with MPI
it loads TensorFlow, which takes seconds; the record of `hvdkit build` says so at once.
"""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import ModuleType

from hvdkit_cli.forwarding import forward_to_ranks, shells_replaced
from hvdkit_cli.record import read_record

# Python code that is this launcher, for those who start it with an interpreter of their own.
CODE = "from hvdkit_cli.horovodrun import main; main()"
BINDING = "--binding-args=--bind-to none --map-by slot"

_EXIT_CODE = re.compile(r"^Exit code: (\d+)$", re.MULTILINE)


def main() -> None:
    """Run Horovod's launcher; `--binding-args` is added unless it is given.

    SIGUSR1 goes on to the ranks, which save a checkpoint and end if they use `BackupAndRestore`.
    The exit status is that of the rank that ended first with another one than 0.
    """
    from horovod.runner import launch

    # For the ranks: their scripts often import TensorFlow before hvdkit.
    if os.environ.get("HVDKIT_LOG_LEVEL", "").upper() != "DEBUG":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    record = read_record()
    if record is not None:  # hvdkit has built it
        answer_from_record(launch, record.facts)
    sys.argv[1:] = with_binding(sys.argv[1:], _mpirun_version())
    forward_to_ranks()
    threading.excepthook = say_in_a_line
    try:
        with shells_replaced():
            sys.exit(launch.run_commandline())
    except Exception as error:
        # What Horovod raises itself is about the job or the command line, and says what it is.
        if type(error) not in (RuntimeError, ValueError, Exception):
            raise
        sys.exit(exit_status(error))


def answer_from_record(launch: ModuleType, facts: Mapping[str, str]) -> None:
    """Let Horovod's launcher read from the build's record what it was built with.

    Args:
        launch: Horovod's module `horovod.runner.launch`.
        facts: What the installed Horovod was built for; see `Plan.facts`.
    """
    built = {"mpi": facts["mpi"] != "none", "gloo": True, "nccl": facts["device"] == "gpu"}
    for name, answer in built.items():
        setattr(launch, f"{name}_built", lambda verbose=False, answer=answer: answer)


def exit_status(error: Exception) -> int:
    """What the launcher ends with after an error of Horovod's; what nobody else has said is shown.

    Args:
        error: What Horovod raised. A rank that ended with an exit status has printed why, and the
            launcher has named the rank.
    """
    found = _EXIT_CODE.search(str(error))
    if found is not None:
        return int(found[1])
    print(f"horovodrun: error: {error}", file=sys.stderr)
    return 1


def say_in_a_line(ended: threading.ExceptHookArgs) -> None:
    """What a thread of the launcher that ends by an exception says, beside what ranks print."""
    print(f"horovodrun: error: {ended.exc_type.__name__}: {ended.exc_value}", file=sys.stderr)


def with_binding(arguments: list[str], mpirun_version: str) -> list[str]:
    """Return horovodrun's arguments with binding options for Open MPI.

    Args:
        arguments: What the user gave.
        mpirun_version: What `mpirun --version` prints; "" where there is no mpirun.
    """
    given = any(argument.split("=")[0] == "--binding-args" for argument in arguments)
    if given or "Open MPI" not in mpirun_version:
        return arguments
    return [BINDING, *arguments]


def _mpirun_version() -> str:
    try:
        done = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
