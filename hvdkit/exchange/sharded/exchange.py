"""The exchange of sharded optimizers, ZeRO's first two stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import keras

from hvdkit.engine import ProcessSet, global_process_set, topology
from hvdkit.engine.elastic import is_elastic
from hvdkit.exchange.buckets import BackwardOrder
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.owners import Owners
from hvdkit.exchange.sharded.buckets import Bucket, ByElement, ByVariable
from hvdkit.exchange.sharded.member import Member
from hvdkit.exchange.tracked import Shard, Tracked
from hvdkit.exchange.traffic import Traffic, plain_bytes
from hvdkit.mesh.mesh import over_replicas
from hvdkit.mesh.variable import raw, variable_key


@keras.saving.register_keras_serializable("hvdkit")
class Sharded:
    """Each rank updates 1/N of the weights, with 1/N of the optimizer's slots (ZeRO).

    Gradients are reduce-scattered, so that a rank gets the mean of those of its elements; it
    updates these, and the new weights are gathered on all ranks. Large variables travel alone and
    small ones in buckets of 1 MiB, in the order of the backward pass, so that they travel while
    the rest of it is computed. The weights are those of the optimizer on one rank, to rounding.

    For N ranks and P bytes of weights, a rank keeps the slots' bytes / N (to an element of a
    bucket), and P / N for the shard that it updates. It sends (N - 1) / N P of gradients and as
    much of weights in a step, together what an all-reduce sends. bfloat16 gradients are reduced
    as float32.

    Optimizers whose rule looks at whole variables (Lamb, Adafactor, Muon, and those that are not
    Keras's own) are sharded by whole variables, balanced by bytes: no rank has less than its
    largest variable, and gradients are all-reduced, so that a step sends 1.5 times the bytes.

    Averages of weights (`use_ema`) are kept on every rank, and so are variables that are
    overwritten by their gradients (float8). Local variables (`register_local_var`) are each rank's
    own, with their slots.

    Checkpoints (`BackupAndRestore`) hold every rank's shards, and can be read by any number of
    ranks, with another stage, and without this exchange. A `.keras` file, which one rank writes,
    holds weights and no slots. Jobs whose ranks come and go are refused: the slots of a rank that
    has died are lost.

    Source: Rajbhandari et al., 2020, https://arxiv.org/abs/1910.02054.

    Args:
        stage: 1 to keep whole gradients where they are accumulated (`gradient_accumulation_steps`),
            so that a rank sends gradients once for an update; 2 to reduce-scatter them at each
            micro-step and accumulate the rank's own elements: P / N in place of P bytes, for as
            many times the traffic of gradients as there are micro-steps. Without accumulation both
            do the same: a gradient is freed when it has been sent.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> exchange = hvd.exchange.Sharded()
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(), exchange=exchange)
    """

    def __init__(self, stage: int = 1) -> None:
        if stage not in (1, 2):
            raise ValueError(
                f"stage is 1 or 2, not {stage!r}: stage 3, which shards weights, too, is not built."
            )
        self._stage = stage
        self._ranks = over_replicas(global_process_set)
        self._unsharded: set[int] = set()
        self._buckets: list[Bucket] = []
        self._members: dict[int, Member] = {}
        self._owners: Owners | None = None

    @property
    def ranks(self) -> ProcessSet:
        """All ranks; with a mesh, its `data_set`."""
        return self._ranks

    @property
    def every_micro_step(self) -> bool:
        """Whether gradients are exchanged before they are accumulated."""
        return self._stage == 2

    def keep_unsharded(self, variables: Sequence[Any]) -> None:
        """Give these variables to one rank each, which updates all of it; before `build`."""
        self._unsharded.update(map(variable_key, variables))

    def build(self, variables: Sequence[Any]) -> Sequence[Tracked]:
        """Divide variables between the ranks; nothing is kept but what they own.

        Raises:
            NotImplementedError: it is an elastic job.
        """
        if is_elastic():
            raise NotImplementedError(
                "with exchange=hvd.exchange.Sharded each rank has slots that no other has, so a "
                "job whose ranks come and go would lose those of a rank that dies: train with "
                "another exchange, or start the job with a fixed number of ranks and let "
                "hvd.callbacks.BackupAndRestore go on with another number."
            )
        size = topology.process_set_size(self._ranks)
        if size == 1 or not topology.in_process_set(self._ranks):
            return ()
        divided = [v for v in variables if _can_be_divided(v)]
        by_variable = [v for v in divided if variable_key(v) in self._unsharded]
        by_element = [v for v in divided if variable_key(v) not in self._unsharded]
        for together in _in_backward_order(by_element):
            self._add(ByElement(together, self._ranks, len(self._buckets)))
        self._owners = self._owners or Owners(size)
        given = dict(
            zip(
                map(variable_key, by_variable),
                self._owners.give(list(map(plain_bytes, by_variable))),
                strict=True,
            )
        )
        for together in _in_backward_order(by_variable):
            owners = [given[variable_key(v)] for v in together]
            self._add(ByVariable(together, owners, self._ranks, len(self._buckets)))
        return ()

    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """The mean of all ranks' gradients, of the elements that this rank owns."""
        by_key = dict(zip(map(variable_key, variables), gradients, strict=True))
        owned = dict(by_key)
        for bucket in self._buckets_with(by_key):
            keys = [variable_key(member.variable) for member in bucket.members]
            given = [by_key.get(key) for key in keys]
            if all(gradient is None for gradient in given):
                continue
            reduced = bucket.reduce(given, name)
            for key, member, gradient, own in zip(
                keys, bucket.members, given, reduced, strict=True
            ):
                if gradient is not None:
                    member.refresh()
                    owned[key] = own
        return [owned[variable_key(variable)] for variable in variables]

    def weights(self, variables: Sequence[Any], iteration: Any) -> None:
        """Gather what each rank has updated."""
        del iteration
        keys = set(map(variable_key, variables))
        for bucket in self._buckets_with(keys):
            bucket.gather([variable_key(member.variable) in keys for member in bucket.members])

    def owned(self, variables: Sequence[Any]) -> list[Any]:
        """This rank's shard of each variable; one without elements where others own all of it."""
        members = [self._members.get(variable_key(variable)) for variable in variables]
        return [v if m is None else m.owned for v, m in zip(variables, members, strict=True)]

    def shards(self, variables: Sequence[Any]) -> list[Shard | None]:
        """What this rank owns of each variable; None where every rank updates all of it."""
        members = [self._members.get(variable_key(variable)) for variable in variables]
        return [None if member is None else member.shard for member in members]

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """What a step without accumulation sends; see `Counted.traffic`.

        A reduce-scatter and an all-gather of shards are one all-reduce in two halves; what one rank
        updates as a whole is all-reduced, and broadcast, which is another half.
        """
        del step
        halves = (3 if variable_key(t) in self._unsharded else 2 for t in tensors)
        sizes = map(plain_bytes, tensors)
        return Traffic(reduced=sum(n * size / 2 for n, size in zip(halves, sizes, strict=True)))

    def agreed_by(self) -> ProcessSet | None:
        """All of `ranks`: each has other gradients."""
        return self._ranks

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return {"stage": self._stage}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Sharded:
        """An exchange with the arguments of `get_config`."""
        return cls(**config)

    def _add(self, bucket: Bucket) -> None:
        self._buckets.append(bucket)
        self._members.update({variable_key(m.variable): m for m in bucket.members})

    def _buckets_with(self, keys: Any) -> Iterator[Bucket]:
        for bucket in self._buckets:
            if any(variable_key(member.variable) in keys for member in bucket.members):
                yield bucket


def _can_be_divided(variable: Any) -> bool:
    """Not what has no elements, and what is replaced by its gradient, as scales of float8 are."""
    return bool(plain_bytes(variable)) and not getattr(variable, "overwrite_with_gradient", False)


def _in_backward_order(variables: Sequence[Any]) -> Iterator[list[Any]]:
    """Variables that travel together; all of a bucket are of one type."""
    for bucket in BackwardOrder().plan(list(map(plain_bytes, variables)), variables):
        members = sorted((variables[i] for i in bucket), key=_type_of)
        for _, together in groupby(members, key=_type_of):
            yield list(together)


def _type_of(variable: Any) -> str:
    return str(raw(variable).dtype.name)
