"""One start of the script through `hvdkit run`, and what its ranks have measured."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hvdkit.monitoring.measurement import VARIABLE, Answer, Measurement
from hvdkit_cli.errors import CommandError
from hvdkit_cli.run.request import Request
from hvdkit_cli.run.script import end_with_parent
from hvdkit_cli.scale.figures import Figures, figures_of
from hvdkit_cli.scale.plan import Start, filled

# -P: a file of the user's that is called as one of Python's modules stays out of it.
_RUN = [sys.executable, "-P", "-m", "hvdkit_cli.main", "run"]
_OUTPUT = "output.log"
_LINES_SHOWN = 20
_ASK_SECONDS = 2.0
# `hvdkit run` ends its ranks within this when it is told to.
_END_SECONDS = 30.0


@dataclass(frozen=True)
class Refused:
    """The batch can't be divided as it was asked for.

    Attributes:
        why: in words.
    """

    why: str


@dataclass(frozen=True)
class Starter:
    """Makes starts.

    Attributes:
        request: the user's command, with places for ranks and batch, and where it runs.
        batch: rows of a rank on the fewest ranks, where the command has a place for it.
        warm_up: steps that are left out.
        steps: steps that are measured.
        limit: seconds that a start may take.
        folder: where all is written, a folder a start.
    """

    request: Request
    batch: int | None
    warm_up: int
    steps: int
    limit: float
    folder: Path

    def run(self, start: Start) -> Figures | Refused:
        """Make a start.

        Raises:
            CommandError: it has failed, taken too long, or ended before all was measured.
        """
        folder = self.folder / start.name
        folder.mkdir(parents=True)
        divide = start.divide if self.batch is None else 1
        asked = Measurement(str(folder), self.warm_up, self.steps, _every(self.steps), divide)
        status = self._run(start, folder, asked)
        if status is None:
            raise self._late(start, folder)
        if status != 0:
            raise self._failed(start, folder, status)
        answer = Answer.read(folder)
        if answer is not None and answer.refused:
            return Refused(answer.refused)
        if answer is None or not answer.uses:
            raise self._unmeasured(start, folder, answer)
        return figures_of(start.ranks, folder, answer, self.warm_up)

    def _run(self, start: Start, folder: Path, asked: Measurement) -> int | None:
        """The exit status; None if its time was up."""
        command = filled(self.request.command, start, self.batch)
        run = [
            *_RUN,
            "-np",
            str(start.ranks),
            "--log-dir",
            str(folder / "logs"),
            *_options(self.request),
        ]
        with (folder / _OUTPUT).open("wb") as output:
            process = subprocess.Popen(
                [*run, "--", *command],
                env={**os.environ, VARIABLE: asked.as_text()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for this process, which then ends it.
                start_new_session=True,
                preexec_fn=lambda: end_with_parent(signal.SIGTERM),
            )
            try:
                return process.wait(self.limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end(process)

    def _late(self, start: Start, folder: Path) -> CommandError:
        return CommandError(
            f"With {start}, {self.warm_up + self.steps} steps of fit were not made within "
            f"{self.limit:g} s.{_tail(folder)}",
            "measure fewer steps (--steps N), or give it longer (--time-limit SECONDS)",
        )

    def _failed(self, start: Start, folder: Path, status: int) -> CommandError:
        command = shlex.join(filled(self.request.command, start, self.batch))
        remedy = f"try it alone: hvdkit run -np {start.ranks} -- {command}"
        if start.divide > 1:
            remedy = "measure it without dividing its batch: --scaling weak"
        return CommandError(
            f"With {start}, the script ended with exit status {status}.{_tail(folder)}", remedy
        )

    def _unmeasured(self, start: Start, folder: Path, answer: Answer | None) -> CommandError:
        asked = f"{self.warm_up} + {self.steps} steps of fit"
        if answer is not None:
            return CommandError(
                f"With {start}, the script ended before {asked} were measured: its last fit made "
                f"{answer.made}, and then had no more data, or was stopped.{_tail(folder)}",
                "measure fewer steps: --steps N, --warm-up N",
            )
        return CommandError(
            f"With {start}, the script ended before {asked} were measured: there was no fit after "
            f"hvd.init(), or {folder} is not there on the host of rank 0.{_tail(folder)}",
            "steps are seen in Keras's fit only: of a loop of your own, make a train_step of the "
            "model, and call fit. --output names a folder that all hosts share",
        )


def _options(request: Request) -> list[str]:
    """Where the ranks run, as options of `hvdkit run`."""
    options = ["--launcher", request.launcher, "--bind", request.bind]
    for name, value in (
        ("--hosts", request.hosts),
        ("--hostfile", request.hostfile),
        ("--interface", request.interface),
    ):
        options += [] if value is None else [name, str(value)]
    for variable in request.variables:
        options += ["-x", variable]
    return [*options, *(["--oversubscribe"] if request.oversubscribe else [])]


def _every(steps: int) -> int:
    """Steps of a sample: ten samples or so are enough, and their exchange counts for nothing."""
    return max(1, steps // 10)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End `hvdkit run` with its ranks, if it has not ended."""
    # The first signal asks the ranks to save and end, the second one ends them.
    for number, seconds in (
        (signal.SIGTERM, _ASK_SECONDS),
        (signal.SIGTERM, _END_SECONDS),
        (signal.SIGKILL, _END_SECONDS),
    ):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def _tail(folder: Path) -> str:
    """The last lines that the job has printed."""
    lines = (folder / _OUTPUT).read_text(errors="replace").splitlines()
    last = [line for line in lines if line.strip()][-_LINES_SHOWN:]
    return "".join(f"\n    {line}" for line in last)
