"""Gossip: each rank updates alone, and mixes its weights with those of a few others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from hvdkit.engine import ProcessSet, Sum, global_process_set, ops, topology
from hvdkit.engine.point_to_point import PointToPoint, why_impossible
from hvdkit.errors import HvdkitError
from hvdkit.exchange.allreduce import AllReduce
from hvdkit.exchange.configs import plain, plain_ranks, ranks_of
from hvdkit.exchange.gossip.mixing import UNITS, Mixing
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.slots import AVERAGED, require_slots
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.exchange.traffic import Traffic, plain_bytes
from hvdkit.mesh.mesh import over_replicas
from hvdkit.mesh.variable import constrain, path_of, raw, variable_key
from hvdkit.schedules.gossip import GRAPHS, Circulant, Graph, keeps_mean

_DISTANCE = "consensus_distance"
_MESSAGES = "Gossip sends weights"


class _Leaf:
    """What is kept for the variables of one optimizer.

    Attributes:
        variables: all of them.
        averages: slots that are averages of weights.
        units: the weight of push-sum, in units of which all ranks together have n times `UNITS`.
        rounds: the rounds so far.
        met: the rounds when the ranks met last.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self.variables = list(variables)
        self.averages: list[Any] = []
        self.units = _integer(UNITS, "push_sum")
        self.rounds = _integer(0, "rounds")
        self.met = _integer(0, "met")

    def tracked(self, ranks: ProcessSet, *, all_ones: bool) -> list[Tracked]:
        """Its variables.

        Args:
            ranks: those that gossip.
            all_ones: whether no rank ever has another weight than 1.
        """
        path = f"gossip/{{}}/{path_of(self.variables[0])}"
        units = Tracked(self.units, Role.SLOT, path.format("push_sum"), resumes_from_mean=all_ones)
        return [
            units,
            Tracked(self.rounds, Role.SLOT, path.format("rounds"), same_on=ranks),
            Tracked(self.met, Role.SLOT, path.format("met"), same_on=ranks),
            *(Tracked(v, Role.WEIGHT, path_of(v)) for v in self.variables),
        ]


@keras.saving.register_keras_serializable("hvdkit")
class Gossip:
    """Each rank updates alone, and after each update mixes its weights with those of a few others.

    That is stochastic gradient push (Assran et al., 2019, https://arxiv.org/abs/1811.10792): a rank
    divides what it holds equally between itself and those that it sends to. No rank waits for all
    others, but only for those that it hears from. Differences between ranks shrink with each round
    by a factor of the graph (`hvdkit.schedules.gossip.contraction`):

    | graph | a rank sends to | factor in a round, of n ranks |
    |---|---|---|
    | "ring" | both neighbours | 1/3 + 2/3 cos(2 pi / n) |
    | "exponential" | those 1, 2, 4, ... after it | 1 - 2 / (1 + log2 n), n a power of 2 |
    | "one_peer_exponential" | one of these, in turn | 0 after log2 n, n a power of 2 |

    Push-sum keeps the mean where ranks receive other shares than they send: each has a weight, too,
    which is mixed alike, and the mean is weighted by it. The weights are whole numbers of units, so
    their sum stays n exactly; in the three graphs each stays 1. The mean of the parameters stays up
    to the rounding of floats. The gradient's step is taken on the mixed weights.

    `fit` brings the ranks to their average at the end of each epoch, before it validates and calls
    callbacks; in a loop of one's own `meet` does it. How far they were apart before that is in the
    epoch's logs as "consensus_distance": the root over ranks of the mean square of the Euclidean
    distance between a rank's weights and the average. Slots stay each rank's own, averages of
    weights (`use_ema`) meet with the weights. A step that is left out because gradients are not
    finite on one rank is left out on all.

    It keeps three integers for each optimizer. A round sends this rank's weights to each target, 4
    bytes a parameter in float32, through the memory of the host. It needs MPI. The watch says who
    waits in a round of gossip. `hvd.callbacks.BackupAndRestore` saves each rank's weights and goes
    on to the bit; with another number of ranks all start from the mean, but where a graph of one's
    own lets the weights of push-sum differ: that is refused.

    Args:
        graph: one of the names above, or an object with `targets(place, size, number)` and
            `period(size)`, see `hvdkit.schedules.gossip.Graph`. It has to lead from each rank to
            each other one, in the course of its rounds.
        push_sum: whether ranks have weights. Without them a graph in which ranks receive other
            shares than they send is refused.
        process_set: the ranks. With a mesh (`hvd.set_mesh`), its `data_set`.

    Raises:
        ValueError: there is no such graph, or it needs `push_sum`.
        HvdkitError: the job runs over Gloo.

    Example:
        >>> exchange = hvd.exchange.Gossip("one_peer_exponential")
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), exchange=exchange)
    """

    def __init__(
        self,
        graph: Literal["ring", "exponential", "one_peer_exponential"] | Graph = "ring",
        *,
        push_sum: bool = True,
        process_set: ProcessSet = global_process_set,
    ) -> None:
        self._given = graph
        self._graph = _graph(graph)
        self._push_sum = push_sum
        self._ranks = over_replicas(process_set)
        size = topology.process_set_size(self._ranks)
        if size > 1 and (problem := why_impossible(_MESSAGES)) is not None:
            raise HvdkitError(problem)
        if not push_sum and not keeps_mean(self._graph, size):
            raise ValueError(
                f"with push_sum=False each rank has to receive as much as it sends, and in "
                f"{type(self._graph).__name__} over {size} ranks some do not: use push_sum=True."
            )
        self._mean = AllReduce(op=Sum, process_set=process_set)
        self._messages: PointToPoint | None = None
        self._leaves: list[_Leaf] = []
        self._numbers: dict[int, int] = {}
        self._squares: dict[int, float] = {}

    @property
    def ranks(self) -> ProcessSet:
        """The ranks that gossip."""
        return self._ranks

    def build(self, variables: Sequence[Any]) -> list[Tracked]:
        """Make the weight of push-sum, and count rounds."""
        self._mean.build(variables)
        if not variables:
            return []
        leaf = _Leaf(variables)
        self._numbers.update((variable_key(v), len(self._leaves)) for v in variables)
        self._leaves.append(leaf)
        return leaf.tracked(self._ranks, all_ones=isinstance(self._graph, Circulant))

    def add_slot(self, slot: Any, variable: Any, name: str, optimizer: Any) -> None:
        """See `SeesSlots`.

        Raises:
            ValueError: the optimizer keeps weights in its slots.
        """
        require_slots(optimizer, "own", variable, has_outer=False, exchange="Gossip")
        if variable is not None and name == AVERAGED:
            self._leaves[self._numbers[variable_key(variable)]].averages.append(slot)

    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """This rank's own."""
        del variables, name
        if self._messages is None:
            # All ranks are here for the first time, and have compared what they exchange.
            with tf.init_scope():
                self._messages = PointToPoint(self._ranks, _MESSAGES)
        return list(gradients)

    def weights(self, variables: Sequence[Any], iteration: Any) -> None:
        """A round of gossip, with all variables of the optimizer."""
        del iteration
        assert self._messages is not None
        for number in self._leaves_of(variables):
            leaf = self._leaves[number]
            mixing = Mixing(self._graph, self._messages, tag=number)
            values = [tf.convert_to_tensor(raw(variable)) for variable in leaf.variables]
            units, rounds = (tf.convert_to_tensor(raw(v)) for v in (leaf.units, leaf.rounds))
            mixed, units = mixing.mixed(values, units, rounds)
            for variable, value in zip(leaf.variables, mixed, strict=True):
                raw(variable).assign(value)
            leaf.units.assign(units)
            leaf.rounds.assign(rounds + 1)

    def meet(self, variables: Sequence[Any]) -> None:
        """Bring the ranks to their average, weighted by push-sum; all of them call it.

        Args:
            variables: the optimizer's, such as `model.trainable_variables`.
        """
        for number in self._leaves_of(variables):
            leaf = self._leaves[number]
            if int(leaf.rounds.numpy()) > int(leaf.met.numpy()):
                self._average(leaf, number)
                leaf.met.assign(leaf.rounds.value)

    def _average(self, leaf: _Leaf, number: int) -> None:
        ranks = topology.process_set_size(self._ranks)
        share = tf.cast(leaf.units.value, tf.float64) / (UNITS * float(ranks))
        together = [*leaf.variables, *leaf.averages]
        own = [tf.convert_to_tensor(raw(variable)) for variable in together]
        means = self._mean.gradients(
            [value * tf.cast(share, value.dtype) for value in own],
            together,
            f"hvdkit_gossip.average{number}",
        )
        of_weights = len(leaf.variables)
        away = [
            tf.reduce_sum(tf.square(tf.cast(value - mean, tf.float64)))
            for value, mean in zip(own[:of_weights], means[:of_weights], strict=True)
        ]
        square = ops.allreduce(
            tf.add_n(away), name=f"hvdkit_gossip.distance{number}", process_set=self._ranks
        )
        self._squares[number] = float(square.numpy())
        for variable, mean in zip(together, means, strict=True):
            raw(variable).assign(mean)
            constrain(variable)
        leaf.units.assign(UNITS)

    def logs(self) -> dict[str, float]:
        """How far the ranks were apart when they met last; see `Reports`."""
        return {_DISTANCE: sum(self._squares.values()) ** 0.5} if self._squares else {}

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """What this rank sends, on average over the graphs; see `Counted.traffic`."""
        del step
        ranks = topology.process_set_ranks(self._ranks)
        place, size = ranks.index(topology.rank()), len(ranks)
        rounds = range(self._graph.period(size))
        targets = [len(self._graph.targets(place, size, number)) for number in rounds]
        return Traffic(directly=sum(map(plain_bytes, tensors)) * sum(targets) / len(targets))

    def owned(self, variables: Sequence[Any]) -> list[Any]:
        """See `Exchange.owned`; all of them."""
        return list(variables)

    def agreed_by(self) -> ProcessSet:
        """All ranks: they have other gradients, and none steps without the others."""
        return self._ranks

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        given = self._given
        return {
            "graph": given if isinstance(given, str) else plain(given),
            "push_sum": self._push_sum,
            "process_set": plain_ranks(self._ranks),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Gossip:
        """An exchange with the arguments of `get_config`; every rank calls it.

        Raises:
            ValueError: a graph of one's own, given then, has no config.
        """
        graph = config["graph"]
        if isinstance(graph, dict):
            graph = keras.saving.deserialize_keras_object(graph)
        return cls(graph, push_sum=config["push_sum"], process_set=ranks_of(config["process_set"]))

    def _leaves_of(self, variables: Sequence[Any]) -> list[int]:
        found = [self._numbers.get(variable_key(variable)) for variable in variables]
        return sorted({number for number in found if number is not None})


def _integer(value: int, name: str) -> keras.Variable:
    return keras.Variable(value, dtype="int64", trainable=False, name=name)


def _graph(given: Any) -> Graph:
    if isinstance(given, str) and given in GRAPHS:
        return GRAPHS[given]()
    if all(callable(getattr(given, name, None)) for name in ("targets", "period")):
        graph: Graph = given
        return graph
    raise ValueError(
        f"graph is one of {', '.join(map(repr, GRAPHS))}, or an object with targets() and "
        f"period(); not {given!r}."
    )
