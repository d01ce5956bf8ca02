"""What an exchange may do besides: small protocols, for which those who call it ask.

An exchange that lacks one goes without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf

from hvdkit.exchange.tracked import Shard


@runtime_checkable
class Meets(Protocol):
    """What an exchange has, too, that lets weights differ between ranks and brings them together.

    `fit` calls it at the end of each epoch, before validation and the callbacks, so that what is
    evaluated, saved and compared then is what all ranks have in common; and before
    `hvd.callbacks.ModelCheckpoint` writes in the middle of one.
    """

    def meet(self, variables: Sequence[Any]) -> None:
        """Bring weights together that have drifted apart; all ranks call it at the same step.

        Args:
            variables: all that one optimizer trains and that the ranks have in common.
        """
        ...


@runtime_checkable
class Reports(Protocol):
    """What an exchange has, too, that has something to tell in the logs of an epoch."""

    def logs(self) -> Mapping[str, float]:
        """Numbers by name, the same on all ranks; `fit` asks at the end of each epoch."""
        ...


@runtime_checkable
class SeesSlots(Protocol):
    """What an exchange that works on weights has, too, if it has to do with their slots."""

    def add_slot(self, slot: Any, variable: Any, name: str, optimizer: Any) -> None:
        """Hear of a slot, once the exchange is built for its variable.

        Args:
            slot: the optimizer's variable.
            variable: what it belongs to.
            name: what Keras calls this kind of slot: "momentum", "average".
            optimizer: whose it is; an exchange may refuse it with a ValueError.
        """
        ...


@runtime_checkable
class CountsRows(Protocol):
    """What an exchange that works on weights has, too, if it weighs ranks by their rows."""

    def count_rows(self, rows: tf.Tensor, variables: Sequence[Any]) -> None:
        """Hear of the rows of a batch, before its gradients; `fit` does so with each.

        Args:
            rows: a float32 scalar.
            variables: those of the optimizer.
        """
        ...


@runtime_checkable
class Remembers(Protocol):
    """An exchange of which something changes only with steps that are applied.

    Steps with NaN or Inf may be left out, and what is kept from step to step must not take them in.
    """

    def remember(self, applied: Callable[[], tf.Tensor]) -> None:
        """Let what is kept change as the last `gradients` found; called after each of these.

        Args:
            applied: makes a boolean, alike on all ranks: whether what was exchanged is finite.
        """
        ...


@runtime_checkable
class Particular(Protocol):
    """An exchange that is not right with every optimizer."""

    def require_fitting(self, optimizer: Any) -> None:
        """Refuse an optimizer; called with each one that updates variables, on every rank.

        Raises:
            ValueError: it says what to do.
        """
        ...


@runtime_checkable
class Divides(Protocol):
    """What an exchange has besides, whose ranks own shards of variables.

    With it gradients are clipped by their norms over all ranks, and checkpoints put slots together
    for any number of ranks.
    """

    def keep_unsharded(self, variables: Sequence[Any]) -> None:
        """Hear, before `build`, of which variables a rank has to own all or nothing.

        Args:
            variables: those whose optimizer looks at whole variables.
        """
        ...

    def shards(self, variables: Sequence[Any]) -> list[Shard | None]:
        """What this rank owns of each variable, after `build`.

        None where every rank owns all of it; that is so on all of them, or on none.
        """
        ...


@runtime_checkable
class EveryMicroStep(Protocol):
    """What an exchange has besides, that may exchange gradients before they are accumulated.

    Accumulated (`gradient_accumulation_steps`) are then the gradients of what a rank owns.
    """

    @property
    def every_micro_step(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class OutOfStep(Protocol):
    """What an exchange has, too, whose ranks do not go through a `fit` in step.

    Some of them may not train at all, and what a rank updates are whole variables. Nothing around
    the steps of a `fit` asks other ranks then: an epoch, its logs and its validation are each
    rank's own. `fit` calls, on every rank: `begin`; then on those that train `start`, the steps,
    and `leave`, and on the others `serve`; then `end`.
    """

    def share(self) -> tuple[int, int] | None:
        """This rank's number among those that train, and theirs; None if it does not train."""
        ...

    def begin(self, optimizer: Any) -> None:
        """Get ready; all ranks call it together.

        Args:
            optimizer: that of the exchange, which updates variables itself; it is built.

        Raises:
            ValueError, NotImplementedError: on every rank: the optimizer can't be right with it.
        """
        ...

    def start(self) -> None:
        """Take the weights to begin with, on a rank that trains, before its first step."""
        ...

    def leave(self) -> None:
        """A rank that trains has made its last step; it waits until all have."""
        ...

    def serve(self) -> None:
        """What a rank does that does not train, until all others have made their last step."""
        ...

    def end(self) -> None:
        """Give all ranks the weights; all of them call it together."""
        ...
