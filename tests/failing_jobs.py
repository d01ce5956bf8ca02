"""Jobs that have to fail, and what each of their ranks then has to print."""

from __future__ import annotations

import re
from dataclasses import dataclass

from launch import LAUNCHERS, ROOT, Finished

SCRIPTS = ROOT / "tests" / "bad_input"
LIMIT_SECONDS = 60


@dataclass(frozen=True)
class Case:
    """A script that has to fail.

    Attributes:
        script: its name in tests/bad_input.
        expected: texts that each rank prints.
        arguments: its arguments.
        ranks: how many ranks run it.
        error: texts of the job's one message; empty where the ranks can't reach each other yet,
            so that each shows the same error.
        named: the ranks that the message begins with; all of them by default.
        traceback: whether the message shows an exception.
        launchers: what starts it.
        long: the launchers with which it adds little, run by `make test-long` only.
    """

    script: str
    expected: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    ranks: int = 2
    error: tuple[str, ...] = ()
    named: str = ""
    traceback: bool = True
    launchers: tuple[str, ...] = LAUNCHERS
    long: tuple[str, ...] = ()

    def __str__(self) -> str:
        last = [argument.split(",")[-1] for argument in self.arguments[-1:]]
        return "-".join([self.script.removesuffix(".py"), *last])


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


def blocks(output: str) -> list[str]:
    """The messages with which hvdkit ended the job."""
    lines = re.sub(r"^\[(?:[\w.-]+,)?\d+\]<std(?:out|err)>: ?", "", output, flags=re.MULTILINE)
    return re.findall(r"^=+ hvdkit: the job failed =+$\n(.*?)^=+$", lines, re.MULTILINE | re.DOTALL)


def require_one_block(job: Finished, *texts: str) -> str:
    """Fail the test unless hvdkit printed one message, with these texts in it."""
    found = blocks(job.output)
    assert len(found) == 1, f"{len(found)} messages; {job.describe()}"
    for text in texts:
        assert squeezed(text) in squeezed(found[0]), f"no {text!r} in the message; {job.describe()}"
    return found[0]


def require_on_each_rank(job: Finished, case: Case) -> None:
    """Fail the test unless every rank says what is expected, and the job shows one error."""
    for rank in range(case.ranks):
        own = squeezed(lines_of_rank(job.output, rank))
        for text in case.expected:
            assert squeezed(text) in own, f"rank {rank} did not print {text!r}; {job.describe()}"
    shown = [
        squeezed(lines_of_rank(job.output, rank)).count("Traceback(mostrecentcalllast)")
        for rank in range(case.ranks)
    ]
    if not case.error:
        assert shown == [1] * case.ranks, f"the ranks show {shown} errors; {job.describe()}"
        return
    message = require_one_block(job, *case.error)
    named = case.named or f"an exception on ranks 0-{case.ranks - 1} ("
    assert message.startswith(named), f"the message does not name {named!r}; {job.describe()}"
    assert sum(shown) == case.traceback, f"the ranks show {shown} errors; {job.describe()}"


def ranks_only(job: Finished) -> str:
    """What the ranks printed, without the launcher's own lines."""
    return "\n".join(line for line in job.output.splitlines() if re.match(r"\[.*?\]<std", line))
