"""Fewer rounds: each rank updates alone, and every few updates the ranks meet."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from hvdkit.engine import ProcessSet, Sum, global_process_set, require_same
from hvdkit.engine.elastic import is_elastic
from hvdkit.exchange.allreduce import AllReduce
from hvdkit.exchange.configs import plain_ranks, ranks_of
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.local_sgd.every import Every, number_of, pattern_of, require_every
from hvdkit.exchange.local_sgd.leaf import Leaf
from hvdkit.exchange.local_sgd.outer import OuterStep, outer_template
from hvdkit.exchange.local_sgd.round import Round
from hvdkit.exchange.slots import AVERAGED, require_slots
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.exchange.traffic import Traffic, plain_bytes
from hvdkit.mesh.mesh import over_replicas
from hvdkit.mesh.variable import path_of, variable_key


@keras.saving.register_keras_serializable("hvdkit")
class LocalSGD:
    """Each rank updates alone; after every few updates the ranks take the mean of their weights.

    That is local SGD (Stich, 2019, https://arxiv.org/abs/1805.09767). Its arguments make others:

    | method | arguments |
    |---|---|
    | federated averaging (https://arxiv.org/abs/1602.05629) | `weights="rows"` |
    | post-local SGD (https://arxiv.org/abs/1808.07217) | `start=` the first local update |
    | DiLoCo (https://arxiv.org/abs/2311.08105) | `outer=SGD(0.7, momentum=0.9, nesterov=True)` |
    | layered synchronisation | `every={"embedding": 32, ".*": 4}` |

    Ranks meet after `every` updates, and `fit` lets them meet at the end of each epoch, before it
    validates and calls callbacks, and before `hvd.callbacks.ModelCheckpoint` saves. Each meeting
    starts a new round, of `every` updates again. So what is evaluated and saved at the end of an
    epoch is what all ranks have in common. In a loop of one's own `meet` does it. Updates count,
    not micro-steps of `gradient_accumulation_steps`; a step that is left out because gradients are
    not finite on one rank is left out on all, and does not count.

    With `every=1` and plain SGD a step is that of an all-reduce, since the mean of w - r g is w
    less r times the mean of g: to the bit where floats do not round, and within a few units in the
    last place otherwise.

    Slots (momentum and the like) stay each rank's own, or are averaged with the weights. They are
    not reset: Adam corrects its moments for the step that it counts, so zeros would make its first
    steps too long. Averages of weights (`use_ema`) are averaged always: the mean of averages is the
    average of means. `BatchNormalization`'s statistics are each rank's own during an epoch and
    averaged at its end, as with every exchange. Constraints hold after a meeting, too. Learning
    rates and weight decay are those of the rank's own updates. Sparse gradients stay on their rank.

    It keeps, for each group of variables, a counter; with `start` one more for the optimizer; with
    an outer optimizer the weights at the start of a round and the outer slots, the same on all
    ranks. A round sends the weights once, 4 bytes a parameter in float32 as one all-reduce does,
    and averaged slots besides; the updates between send nothing, nor do steps before `start` send
    more than an all-reduce. With loss scaling or `nonfinite=` the ranks tell each other in each
    step whether their gradients are finite, a single integer.

    `hvd.callbacks.BackupAndRestore` saves each rank's weights and slots, and goes on to the bit;
    with another number of ranks all start from the mean of the weights, and of the slots.

    Args:
        every: the updates from one meeting to the next; or such numbers by regular expressions: a
            variable belongs to the first that is found in its path. A number as large as the epoch
            lets the ranks meet at the ends of epochs only.
        start: the first `start` updates exchange gradients with an all-reduce. They are counted by
            the exchange, from when it is built.
        outer: a Keras optimizer that is applied, at a meeting, to the weights from which the round
            has started, with these less the mean as gradient; its slots and its steps are those of
            meetings, and a learning rate schedule counts them. Each group of variables, and each
            optimizer in a `MultiOptimizer`, gets a copy. None to go on from the mean.
        slots: "own" or "average".
        weights: "equal", or "rows": the mean counts each rank by the rows that it has seen since
            the last meeting. `fit` knows them. Data from `hvd.shard` weighs rows in the loss, so
            there the two are the same. A loop of one's own calls `count_rows`; where no rank
            does, they count alike.
        process_set: the ranks. With a mesh (`hvd.set_mesh`), its `data_set`.

    Raises:
        ValueError: an argument is out of range, or the outer optimizer can't be one.

    Example:
        >>> outer = keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)
        >>> exchange = hvd.exchange.LocalSGD(every=64, outer=outer)
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.AdamW(1e-3), exchange=exchange)
    """

    def __init__(
        self,
        every: Every,
        *,
        start: int = 0,
        outer: Any = None,
        slots: Literal["own", "average"] = "own",
        weights: Literal["equal", "rows"] = "equal",
        process_set: ProcessSet = global_process_set,
    ) -> None:
        require_every(every)
        if not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise ValueError(f"start is a number of updates, 0 or more, not {start!r}.")
        for name, value, known in (
            ("slots", slots, ("own", "average")),
            ("weights", weights, ("equal", "rows")),
        ):
            if value not in known:
                raise ValueError(f'{name} is "{known[0]}" or "{known[1]}", not {value!r}.')
        self._every = dict(every) if isinstance(every, Mapping) else every
        self._start = start
        self._outer = outer_template(outer)
        # Now, since the learning rate can't be read while a graph is made.
        self._outer_config = keras.saving.serialize_keras_object(self._outer)
        self._slots = slots
        self._weights = weights
        self._ranks = over_replicas(process_set)
        self._mean = AllReduce(process_set=process_set)
        self._total = AllReduce(op=Sum, process_set=process_set) if weights == "rows" else None
        self._leaves: dict[int, Leaf] = {}
        self._rounds: dict[int, Round] = {}
        self._numbers = itertools.count()

    @property
    def ranks(self) -> ProcessSet:
        """The ranks that meet."""
        return self._ranks

    def build(self, variables: Sequence[Any]) -> list[Tracked]:
        """Make the counters, and what the outer optimizer needs.

        Raises:
            ValueError: no pattern of `every` is found in a variable's path; or the outer
                optimizer would have to see more than this rank's shard.
        """
        for mean in (self._mean, self._total):
            if mean is not None:
                mean.build(variables)
        rounds: dict[str, Round] = {}
        patterns = [pattern_of(self._every, variable) for variable in variables]
        for pattern in dict.fromkeys(patterns):
            pairs = zip(variables, patterns, strict=True)
            group = [variable for variable, own in pairs if own == pattern]
            outer = None
            if self._outer is not None:
                outer = OuterStep(self._outer, group, self._ranks)
            number = number_of(self._every, pattern)
            rounds[pattern] = Round(
                group, number, self._mean, self._total, outer, next(self._numbers)
            )
            self._rounds.update((variable_key(variable), rounds[pattern]) for variable in group)
        rows = [row for one in rounds.values() for row in one.tracked()]
        leaf = Leaf(rounds, patterns)
        if self._start and variables:
            leaf.updates = keras.Variable(0, dtype="int64", trainable=False, name="updates")
            path = f"local_sgd/updates/{path_of(variables[0])}"
            rows.append(Tracked(leaf.updates, Role.SLOT, path, same_on=self._ranks))
        self._leaves.update((variable_key(variable), leaf) for variable in variables)
        return [*rows, *(Tracked(v, Role.WEIGHT, path_of(v)) for v in variables)]

    def add_slot(self, slot: Any, variable: Any, name: str, optimizer: Any) -> None:
        """See `SeesSlots`.

        Raises:
            ValueError: weights can't be averaged without slots, or slots can't be averaged.
        """
        require_slots(optimizer, self._slots, variable, has_outer=self._outer is not None)
        if variable is not None and (self._slots == "average" or name == AVERAGED):
            self._rounds[variable_key(variable)].add_slot(slot)

    def count_rows(self, rows: Any, variables: Sequence[Any]) -> None:
        """Count rows that this rank has seen: in each step of a loop of one's own, before `apply`.

        Args:
            rows: their number.
            variables: the optimizer's.
        """
        if self._total is None:
            return
        for leaf in self._leaves_of(variables):
            leaf.count_rows(tf.cast(rows, tf.float32))

    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """This rank's own; their mean before `start`."""
        given = list(gradients)
        for leaf in self._leaves_of(variables):
            leaf.prefix = name
            self._compare_groups_once(leaf)
            self._unless_synchronous(leaf, leaf.before_update)
            if leaf.updates is not None:
                return self._synchronous(leaf.updates, given, variables, name)
        return given

    def weights(self, variables: Sequence[Any], iteration: Any) -> None:
        """Count an update, and meet if it is time."""
        del iteration  # an optimizer may have stepped before it had this exchange
        for leaf in self._leaves_of(variables):
            self._unless_synchronous(leaf, leaf.after_update)
            if leaf.updates is not None:
                leaf.updates.assign_add(1)

    def meet(self, variables: Sequence[Any]) -> None:
        """Let the ranks meet now, unless they have met after the last update; all of them call it.

        Args:
            variables: the optimizer's, such as `model.trainable_variables`.
        """
        for leaf in self._leaves_of(variables):
            leaf.meet()

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """What an update sends on average, without slots; see `Counted.traffic`.

        Raises:
            ValueError: `every` has no pattern for one of them.
        """
        if step is not None and step < self._start:
            return self._mean.traffic(tensors, step)
        every = [number_of(self._every, pattern_of(self._every, tensor)) for tensor in tensors]
        return Traffic(reduced=sum(plain_bytes(t) / n for t, n in zip(tensors, every, strict=True)))

    def owned(self, variables: Sequence[Any]) -> list[Any]:
        """See `Exchange.owned`; all of them."""
        return list(variables)

    def agreed_by(self) -> ProcessSet:
        """All ranks: they have other gradients, and none steps without the others."""
        return self._ranks

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return {
            "every": self._every,
            "start": self._start,
            "outer": self._outer_config,
            "slots": self._slots,
            "weights": self._weights,
            "process_set": plain_ranks(self._ranks),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LocalSGD:
        """An exchange with the arguments of `get_config`; every rank calls it."""
        outer = keras.saving.deserialize_keras_object(config["outer"])
        return cls(**config | {"outer": outer, "process_set": ranks_of(config["process_set"])})

    def _leaves_of(self, variables: Sequence[Any]) -> list[Leaf]:
        found = [self._leaves.get(variable_key(variable)) for variable in variables]
        return list({id(leaf): leaf for leaf in found if leaf is not None}.values())

    def _unless_synchronous(self, leaf: Leaf, do: Any) -> None:
        if leaf.updates is None:
            do()
        else:
            tf.cond(leaf.updates.value < self._start, lambda: None, do)

    def _synchronous(
        self, updates: Any, gradients: list[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """The mean of gradients in the first updates, and this rank's own after them."""
        there = [i for i, gradient in enumerate(gradients) if gradient is not None]
        given = [gradients[i] for i in there]
        chosen = tf.cond(
            updates.value < self._start,
            lambda: self._mean.gradients(given, [variables[i] for i in there], name),
            lambda: [_identity(gradient) for gradient in given],
        )
        for i, gradient in zip(there, chosen, strict=True):
            gradients[i] = gradient
        return gradients

    def _compare_groups_once(self, leaf: Leaf) -> None:
        """Refuse groups that differ between ranks, and patterns of nothing.

        Raises:
            RankMismatchError: on every rank: paths differ, so other variables would meet.
            ValueError: a pattern is found in no path: nobody would notice that it is misspelt.
        """
        if leaf.groups_are_compared or not isinstance(self._every, dict):
            return
        leaf.groups_are_compared = True
        used = {pattern for one in self._leaves.values() for pattern in one.rounds}
        if unused := [pattern for pattern in self._every if pattern not in used]:
            raise ValueError(f"every has patterns that are found in no variable's path: {unused}.")
        if not is_elastic():
            require_same("the variables that meet together", leaf.patterns, self._ranks)


def _identity(gradient: Gradient) -> Gradient:
    if isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.identity(gradient)
