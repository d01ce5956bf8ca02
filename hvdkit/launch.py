"""hvd.run: call a function on several ranks, from a script, a notebook, or a prompt."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hvdkit.engine import HvdkitError, several_ranks, topology
from hvdkit.engine.startup import environment_before_init
from hvdkit.errors import FunctionError
from hvdkit.jobs.outcomes import cause_of
from hvdkit_cli import horovodrun
from hvdkit_cli.building.process import end_tree
from hvdkit_cli.doctor.trial import trial_environment
from hvdkit_cli.rank import Ended, read_ended, write_call

Result = TypeVar("Result")
_LINES_SHOWN = 20


def run(
    fn: Callable[..., Result],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    np: int = 2,
    *,
    use_mpi: bool | None = None,
    use_gloo: bool | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    verbose: bool = True,
) -> list[Result]:
    """Call a function on several ranks of this machine, and return what each of them returned.

    Each rank is a new process, in which the function calls `hvd.init()`, as a script does. The
    calling process is no rank: it needs no `hvd.init()`, and may have used TensorFlow. For several
    hosts start a script with `mpirun` or `horovodrun`.

    Args:
        fn: the function. Functions of a notebook or of the script itself, and lambdas, are sent as
            they are, with the variables that they use; others are imported by the ranks.
        args: its positional arguments.
        kwargs: its keyword arguments.
        np: number of ranks.
        use_mpi: start the ranks with mpirun. Default: if Horovod was built with MPI.
        use_gloo: start them over Gloo, without MPI.
        timeout: seconds after which the ranks are ended; None for no limit.
        env: variables of the ranks' environment, added to this process's.
        verbose: show what the ranks print.

    Returns:
        The results in the order of the ranks.

    Raises:
        FunctionError: the function raised an error on a rank, or a rank ended without a result.
        TimeoutError: the ranks did not end in time.
        HvdkitError: this process is a rank itself, or there is no such launcher.
        ValueError: `np` is not positive, or both launchers were asked for.

    Example:
        >>> def train(epochs):
        ...     hvd.init()
        ...     model = build()
        ...     model.fit(hvd.shard((x, y), 32), epochs=epochs)
        ...     return model.get_weights()
        ...
        ...
        >>> weights = hvd.run(train, args=(3,), np=2)[0]
    """
    if np < 1:
        raise ValueError(f"np is the number of ranks, at least 1, not {np}.")
    if several_ranks():
        raise HvdkitError(
            f"hvd.run() starts a job, but this process is rank {topology.rank()} of one already."
        )
    over_mpi = _over_mpi(use_mpi, use_gloo)
    with tempfile.TemporaryDirectory(prefix="hvdkit-run-") as name:
        folder = Path(name)
        write_call(folder, fn, tuple(args), dict(kwargs or {}))
        command = [*_launcher(np, over_mpi), sys.executable, "-m", "hvdkit_cli.rank", name]
        status, printed = _started(command, _environment(env or {}), timeout, verbose)
        ends = [read_ended(folder, rank) for rank in range(np)]
    if status is None:
        raise TimeoutError(
            f"the ranks of hvd.run() did not end within {timeout:g} s; they printed last:\n"
            + "\n".join(printed)
        )
    return _results(ends, status, printed)


def _over_mpi(use_mpi: bool | None, use_gloo: bool | None) -> bool:
    if use_mpi and use_gloo:
        raise ValueError("give use_mpi=True or use_gloo=True, not both.")
    for asked, built, name, option in (
        (use_mpi, topology.mpi_built(), "MPI", "--mpi auto"),
        (use_gloo, topology.gloo_built(), "Gloo", "--force"),
    ):
        if asked and not built:
            raise HvdkitError(f"Horovod was built without {name}. Run\n    hvdkit build {option}")
    if use_mpi is None:
        return topology.mpi_built() and not use_gloo
    return use_mpi


def _launcher(ranks: int, over_mpi: bool) -> list[str]:
    if over_mpi:
        return ["mpirun", "-np", str(ranks)]
    gloo = [sys.executable, "-c", horovodrun.CODE, "--gloo"]
    return [*gloo, "-np", str(ranks), "-H", f"localhost:{ranks}"]


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """That of this process, for a job of its own; what this process can import, its ranks can."""
    env = trial_environment(environment_before_init())
    env["PYTHONPATH"] = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    env["PYTHONUNBUFFERED"] = "1"
    return {**env, **more}


def _started(
    command: list[str], env: dict[str, str], timeout: float | None, verbose: bool
) -> tuple[int | None, list[str]]:
    """The launcher's exit status, None after `timeout` seconds, and the last lines it printed."""
    try:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise HvdkitError(
            f"hvd.run() starts ranks with {command[0]}, which is not on PATH; "
            "use_gloo=True needs none."
        ) from error
    late = threading.Event()

    def end() -> None:
        late.set()
        end_tree(process.pid)

    timer = threading.Timer(timeout or 0, end)
    timer.daemon = True
    if timeout is not None:
        timer.start()
    last: deque[str] = deque(maxlen=_LINES_SHOWN)
    try:
        for line in process.stdout or ():
            last.append(line.rstrip("\n"))
            if verbose:  # sys.stdout may be a notebook's, which is no file
                print(line, end="", flush=True)
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            end_tree(process.pid)
    return (None if late.is_set() else status), list(last)


def _results(ends: list[Ended | None], status: int, printed: list[str]) -> list[Any]:
    failed = {rank: ended for rank, ended in enumerate(ends) if ended is not None and ended.text}
    if failed:
        rank = cause_of(failed)
        error = failed[rank]
        cause = None if error.error is None else pickle.loads(error.error)
        raise FunctionError(f"on rank {rank}:\n{error.text}", rank) from cause
    silent = [rank for rank, ended in enumerate(ends) if ended is None]
    if silent:
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        raise FunctionError(
            f"rank {', '.join(map(str, silent))} ended without a result (the launcher ended with "
            f"{how}); the last lines printed:\n" + "\n".join(printed),
            silent[0],
        )
    return [pickle.loads(ended.value) for ended in ends if ended and ended.value is not None]
