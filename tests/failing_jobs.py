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
        arguments: its arguments.
        ranks: how many ranks run it.
        expected: texts that each rank prints; "{rank}" is the rank.
        silent: ranks that do not have to print anything, since they are the ones that are missing.
        on_rank_0: texts that rank 0 prints besides.
        launchers: what starts it.
        long: the launchers with which it adds little, run by `make test-long` only.
    """

    script: str
    expected: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    ranks: int = 2
    silent: tuple[int, ...] = ()
    on_rank_0: tuple[str, ...] = ()
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


def require_on_each_rank(job: Finished, case: Case) -> None:
    """Fail the test unless every rank says what is expected, and shows one error."""
    for rank in range(case.ranks):
        own = squeezed(lines_of_rank(job.output, rank))
        if rank in case.silent:
            continue
        for text in case.expected + (case.on_rank_0 if rank == 0 else ()):
            wanted = squeezed(text.replace("{rank}", str(rank)))
            assert wanted in own, f"rank {rank} did not print {text!r}; {job.describe()}"
        errors = own.count("Traceback(mostrecentcalllast)")
        assert errors == 1, f"rank {rank} shows {errors} errors; {job.describe()}"
