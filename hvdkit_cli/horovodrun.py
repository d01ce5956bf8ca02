"""`horovodrun`, Horovod's launcher, with binding options that Open MPI 5 understands.

Horovod 0.28.1 passes `-bind-to none`; Open MPI 5 takes the `none` for the program to start. The
same options with two dashes are right for Open MPI 4 and 5.
"""

import subprocess
import sys

from hvdkit_cli.forwarding import forward_to_ranks, shells_replaced

BINDING = "--binding-args=--bind-to none --map-by slot"


def main() -> None:
    """Run Horovod's launcher; `--binding-args` is added unless it is given.

    SIGUSR1 goes on to the ranks, which save a checkpoint and end if they use `BackupAndRestore`.
    """
    from horovod.runner.launch import run_commandline

    sys.argv[1:] = with_binding(sys.argv[1:], _mpirun_version())
    forward_to_ranks()
    with shells_replaced():
        sys.exit(run_commandline())


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
