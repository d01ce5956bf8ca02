"""What has been noted of a rank's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """A collective, the last time that it ran or each time.

    Attributes:
        name: what it is, as messages name it, such as "allreduce 'adam/bucket0'".
        begun: when this rank gave its part.
        done: when it had the result; before `begun` where it has not yet.
        sent: bytes that this rank gave.
        beside: whether the backward pass may go on meanwhile.
    """

    name: str
    begun: float
    done: float
    sent: float
    beside: bool


class Norms(NamedTuple):
    """Norms of exchanged gradients, so far.

    Attributes:
        squares: this rank's share of the sum of their squares; the ranks' are added up.
        number: how many they are.
        not_finite: how many of them are not finite, and not in the sum.
    """

    squares: float
    number: float
    not_finite: float


@dataclass(frozen=True)
class Moments:
    """What has been noted on this rank up to now.

    Attributes:
        batch: when the last batch was there; 0 if that is not noted.
        batches: how many there were since Keras called the training function last; on several
            local devices each counts.
        rows: their rows; padding is none.
        tokens: their tokens, where rows are sequences of integers.
        gradients: when all gradients of the last update existed; 0 for none.
        exchanged: when all of them had been exchanged; 0 for none.
        norms: those that were wanted, of each exchange of gradients in a step, by its number.
        collectives: those in graphs, each the last time it ran.
        sent: bytes given to each collective so far, by name, those of Python included.
        spans: collectives outside of graphs, each time, since the reader's last `read`.
    """

    batch: float
    batches: float
    rows: float
    tokens: float
    gradients: float
    exchanged: float
    norms: Mapping[int, Norms]
    collectives: Sequence[Span]
    sent: Mapping[str, float]
    spans: Sequence[Span]
