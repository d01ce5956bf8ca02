"""What is started, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hvdkit_cli.errors import CommandError

_BATCH, _RANKS = "{batch}", "{ranks}"


@dataclass(frozen=True)
class Start:
    """One start of the script.

    Attributes:
        round: its number, from 1.
        ranks: how many.
        divide: by what the batch of a rank is divided: 1 for weak scaling.
    """

    round: int
    ranks: int
    divide: int

    @property
    def name(self) -> str:
        """For its folder."""
        return f"round{self.round}-ranks{self.ranks}{'' if self.divide == 1 else '-strong'}"

    def __str__(self) -> str:
        ranks = f"{self.ranks} rank{'' if self.ranks == 1 else 's'}"
        return ranks if self.divide == 1 else f"{ranks}, batch of a rank divided by {self.divide}"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        sizes: numbers of ranks, from the fewest to the most.
        rounds: how often each is started.
        weak: whether the script runs as it is.
        strong: whether it runs with the batch of the fewest ranks.
    """

    sizes: Sequence[int]
    rounds: int
    weak: bool
    strong: bool

    def starts(self) -> Iterator[Start]:
        """All starts: up the sizes in one round, down in the next, as a machine may drift."""
        fewest = self.sizes[0]
        for number in range(1, self.rounds + 1):
            for ranks in self.sizes if number % 2 else reversed(self.sizes):
                if self.weak or ranks == fewest:  # which is the first of both kinds
                    yield Start(number, ranks, 1)
                if self.strong and ranks != fewest:
                    yield Start(number, ranks, ranks // fewest)


def parse_sizes(text: str) -> list[int]:
    """The numbers of `--ranks 1,2,4`.

    Raises:
        CommandError: they are not two or more numbers above 0, each larger than the one before.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entry.isascii() and entry.isdigit() and int(entry) > 0 for entry in entries):
        raise CommandError(f"'{text}' is no list of numbers of ranks.", "write it as --ranks 1,2,4")
    sizes = [int(entry) for entry in entries]
    if sizes != sorted(set(sizes)):
        raise CommandError(
            f"'{text}' is not in order, or has a number twice.",
            f"--ranks {','.join(map(str, sorted(set(sizes))))}",
        )
    if len(sizes) < 2:
        raise CommandError(
            f"With {sizes[0]} ranks only there is nothing to compare.",
            f"name two numbers or more, such as --ranks {sizes[0]},{2 * sizes[0]}",
        )
    return sizes


def indivisible(sizes: Sequence[int], batch: int | None) -> str | None:
    """Why the batch of the fewest ranks can't be that of the others; None if it can."""
    fewest = sizes[0]
    odd = [size for size in sizes if size % fewest]
    if odd:
        return f"{odd[0]} ranks are no multiple of {fewest}, so they can't share its batch exactly"
    left = [size for size in sizes if batch is not None and batch % (size // fewest)]
    if left:
        return f"--batch {batch} can't be divided by {left[0] // fewest} for {left[0]} ranks"
    return None


def require_batch(command: Sequence[str], batch: int | None) -> None:
    """Refuse a batch that goes nowhere, and a place without one.

    Raises:
        CommandError: only one of both is there.
    """
    has_place = any(_BATCH in argument for argument in command)
    if has_place and batch is None:
        raise CommandError(
            f"The command has {_BATCH} in it, and there is no --batch.",
            "add --batch ROWS, the rows of a rank in a batch on the fewest ranks",
        )
    if batch is not None and not has_place:
        raise CommandError(
            f"--batch {batch} is nowhere in the command.",
            f"put {_BATCH} where the script takes it, as in: python train.py --batch-size {_BATCH}",
        )


def filled(command: Sequence[str], start: Start, batch: int | None) -> list[str]:
    """The command of a start, with its ranks and its batch in their places."""
    rows = "" if batch is None else str(batch // start.divide)
    return [
        argument.replace(_RANKS, str(start.ranks)).replace(_BATCH, rows) for argument in command
    ]
