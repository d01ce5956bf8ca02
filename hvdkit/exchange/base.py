"""The seam: what an exchange, an aggregator and a codec are.

Ranks stay together by an `Exchange`, one for each optimizer. `AllReduce` is the default one; its
`Aggregator` makes the mean of one bucket of gradients, and a `Codec` makes what an aggregator sends
smaller. A new method is a new class with the methods of one of the three, given to
`hvd.DistributedOptimizer(optimizer, exchange=...)`: what it keeps in variables it says in `build`,
and they are then sent, compared, saved and resumed with the optimizer's.

What every exchange needs is done before it (`hvdkit.exchange.chain`): the rows of sparse gradients
have different indices, the ranks have compared what they exchange, gradients that ranks of a
tensor group have parts of are summed, and local variables are left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from hvdkit.engine import ProcessSet
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.memory import NewValue
from hvdkit.exchange.tracked import Tracked


class Exchange(Protocol):
    """How the ranks of one optimizer stay together.

    The optimizers inside a `MultiOptimizer` share one, so what an exchange keeps it keeps for each
    variable (`variable_key`), and it is built with the variables of each in turn.
    """

    @property
    def ranks(self) -> ProcessSet:
        """The ranks that stay together; with a mesh, its `data_set`."""
        ...

    def build(self, variables: Sequence[Any]) -> Sequence[Tracked]:
        """Make what is kept for some variables, before the optimizer makes its slots.

        It talks to no other rank: one of them may load its model while the others wait.

        Args:
            variables: trainable `keras.Variable`s, which the ranks have in common.

        Returns:
            The exchange's own variables; and weights, where it lets them differ between ranks
            (`same_on=None`).
        """
        ...

    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """From this rank's gradients to those that it applies, before they are clipped.

        Args:
            gradients: one for each variable: a tensor, `tf.IndexedSlices` of different indices, or
                None where there is nothing to exchange.
            variables: what they belong to, in the same order.
            name: names the operations between ranks; the same on all of them.

        Returns:
            The gradients of `owned(variables)`, in the same order.
        """
        ...

    def weights(self, variables: Sequence[Any], iteration: Any) -> None:
        """Bring weights together, after each update and before averages and constraints.

        Args:
            variables: those that were updated.
            iteration: the updates before this one, an integer tensor.
        """
        ...

    def owned(self, variables: Sequence[Any]) -> list[Any]:
        """What this rank updates in place of each variable, in the same order.

        It is the variable itself; or a variable of the exchange's own that holds this rank's shard,
        which `weights` puts together; or None where another rank does it. Slots are made for
        what is owned.
        """
        ...

    def agreed_by(self) -> ProcessSet | None:
        """The ranks that have to be asked whether the exchanged gradients are finite.

        None where these are the same on all ranks.
        """
        ...

    def get_config(self) -> dict[str, Any]:
        """The arguments of an exchange that is like this one, as plain data.

        Numbers and texts among them have to be the same on all ranks.
        """
        ...


class GradientExchange(ABC):
    """Base of an exchange that changes gradients, and leaves weights to the optimizer."""

    @property
    @abstractmethod
    def ranks(self) -> ProcessSet:
        """See `Exchange.ranks`."""

    @abstractmethod
    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """See `Exchange.gradients`."""

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """See `Exchange.get_config`."""

    def build(self, variables: Sequence[Any]) -> Sequence[Tracked]:
        """See `Exchange.build`; nothing is kept."""
        del variables
        return ()

    def weights(self, variables: Sequence[Any], iteration: Any) -> None:
        """See `Exchange.weights`; they stay as they are."""
        del variables, iteration

    def owned(self, variables: Sequence[Any]) -> list[Any]:
        """See `Exchange.owned`; all of them."""
        return list(variables)

    def agreed_by(self) -> ProcessSet | None:
        """See `Exchange.agreed_by`; the gradients are the same on all ranks."""
        return None


def leaves_weights(exchange: Exchange) -> bool:
    """Whether an exchange changes gradients only, and leaves weights to the optimizer."""
    kind = type(exchange)
    return (
        isinstance(exchange, GradientExchange)
        and kind.weights is GradientExchange.weights
        and kind.owned is GradientExchange.owned
    )


@dataclass(frozen=True)
class Aggregated:
    """One bucket, aggregated.

    Attributes:
        mean: the mean over ranks of each tensor.
        share: makes `sent`.
        kept: variables of the aggregator's own, with the values that they get if the step is
            applied. What an aggregator assigns itself changes with steps that are left out, too.
    """

    mean: list[tf.Tensor]
    share: Callable[[], list[tf.Tensor]]
    kept: Sequence[NewValue] = ()

    @property
    def sent(self) -> list[tf.Tensor]:
        """This rank's tensors as the others saw them; made when it is asked for."""
        return self.share()


class Aggregator(Protocol):
    """How one bucket of dense gradients becomes its mean over ranks.

    Error feedback is an aggregator around another one: it adds what it has kept, and keeps what
    it has given and not `sent`.
    """

    def build(self, variables: Sequence[Any], ranks: ProcessSet) -> Sequence[Tracked]:
        """Make what is kept for some variables; as `Exchange.build`.

        Args:
            variables: those whose gradients will be aggregated.
            ranks: the ranks over which they will be.
        """
        ...

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        """The mean over ranks of each tensor of a bucket.

        Args:
            bucket: this rank's tensors, of the same shapes and types on all ranks.
            variables: what they belong to, in the same order.
            name: names the operations between ranks; the same on all of them.
        """
        ...


class Codec(Protocol):
    """A smaller form of a tensor, for the wire.

    A tensor with NaN or Inf in it has to come out of `decode` with NaN or Inf in it: by the result
    all ranks see that the gradients of one of them are not finite.

    Attributes:
        additive: whether the sum of payloads is the payload of the sum, so that they can be summed
            on the way; else the payloads of all ranks are gathered.
    """

    additive: bool

    def encode(self, tensor: tf.Tensor) -> tuple[Any, Any]:
        """What travels, and what `decode` needs to know.

        The first is a tensor, or a structure of tensors where the codec is not additive, of the
        same shapes and types on all ranks; the second is the same on all ranks.
        """
        ...

    def decode(self, payload: Any, context: Any) -> tf.Tensor:
        """The tensor in the type that `encode` was given."""
        ...


__all__ = [
    "Aggregated",
    "Aggregator",
    "Codec",
    "Exchange",
    "GradientExchange",
    "leaves_weights",
]
