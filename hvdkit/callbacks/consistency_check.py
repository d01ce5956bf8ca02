"""Notice ranks that drift apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from hvdkit.callbacks.broadcast import BroadcastGlobalVariablesCallback
from hvdkit.data.fit_position import current_position
from hvdkit.engine import (
    ProcessSet,
    RankMismatchError,
    logger,
    raise_everywhere,
    topology,
)
from hvdkit.exchange.tracked import Tracked
from hvdkit.mesh.variable import variable_key
from hvdkit.optimizers.composition import is_distributed, mesh_of
from hvdkit.state import outside_variables
from hvdkit.state.broadcast import broadcast_variables
from hvdkit.state.differences import NAMED, find_differences, find_other_layers, summary
from hvdkit.state.digest import digests_of
from hvdkit.state.groups import Alike, alike, within
from hvdkit.state.inventory import agreeing, averaged, inventory
from hvdkit.state.meeting import weights_that_meet
from hvdkit.state.reachable import (
    COMPILED,
    FoundOptimizer,
    has_variables,
    leading_optimizer,
    optimizers_of,
)

_OPT_OUT = (
    "If each rank trains a model of its own on purpose, say so with "
    "hvd.init(consistency_check=False), or for one fit with "
    "hvd.callbacks.ConsistencyCheck(at_start=False) among its callbacks."
)


class ConsistencyCheck(keras.callbacks.Callback):
    """Check that all ranks hold the same model and optimizer, to the bit.

    The ranks exchange a few integers for each variable; only where these differ are values
    compared. In a job of several ranks `fit` adds this callback itself, to check once before the
    first step and once after the first update.

    Compared are the weights, the variables of all optimizers of the model, and what layers compute
    with outside of variables: vocabularies, boundaries of bins, the constants of Normalization. Not
    compared are variables registered with `register_local_var`, accumulated gradients, weights that
    are each rank's own, and the states of seed generators. The moving statistics of
    BatchNormalization are averaged over ranks at the end of each epoch and before hvdkit's
    checkpoints, and are compared at the end of epochs.

    Args:
        every_n_steps: check after this many steps; None for never.
        every_n_epochs: check at the end of every so many epochs; None for never.
        repair: instead of raising an error, send what differs from the first rank and log it.
        at_start: check before the first step and after the first update.
        local_variables: variables to leave out.
        process_set: the ranks to compare. Default: those that the optimizer reduces over.

    Raises:
        RankMismatchError: on every rank. It names the first variables that differ, by how much,
            and the layers whose other state differs, with the ranks in the minority.
        ValueError: an interval is no positive integer.

    Example:
        >>> check = hvd.callbacks.ConsistencyCheck(every_n_steps=100)
        >>> model.fit(train, callbacks=[start, check])
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        repair: bool = False,
        *,
        at_start: bool = True,
        local_variables: Iterable[Any] = (),
        process_set: ProcessSet | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("every_n_steps", every_n_steps), ("every_n_epochs", every_n_epochs)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is a positive integer or None, not {value!r}.")
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.repair = repair
        self.at_start = at_start
        self.process_set = process_set
        self._own_local = {variable_key(variable) for variable in local_variables}
        self._local: set[int] = set()
        self._broadcasts = False

    def beside(self, callbacks: Iterable[Any]) -> None:
        """Take over what the other callbacks of a `fit` leave out; `fit` calls it."""
        others = [c for c in callbacks if isinstance(c, BroadcastGlobalVariablesCallback)]
        self._broadcasts = bool(others)
        self._local = self._own_local.union(*(other.local_keys for other in others))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find out who is compared."""
        leading = leading_optimizer(self.model)
        groups = [Alike(self.process_set)] if self.process_set else alike(leading)
        self._replicas = groups[-1].ranks
        self._groups = [group for group in groups if topology.size() > 1 and group.compares]
        self._active = bool(self._groups)
        mesh = mesh_of(leading)
        self._all_compare = self._active and mesh is not None and not self.process_set
        self._start_is_due = self._update_is_due = self.at_start and self._active
        self._updates_before = 0
        self._steps = 0
        self._last_batch = -1

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Batches are counted from 0 again."""
        self._epoch = epoch
        self._last_batch = -1

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Check before the first step of a model that has its variables."""
        if self._start_is_due and has_variables(self.model):
            self._start_is_due = False
            self._updates_before = self._updates()
            self._check("before the first step")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Check after the first update, and every so many steps."""
        steps = batch - self._last_batch
        self._last_batch = batch
        before, self._steps = self._steps, self._steps + steps
        where = f"epoch {self._epoch + 1}, step {batch + 1}"
        if self._update_is_due and not self._start_is_due and self._has_updated():
            self._update_is_due = False
            self._check(f"after the first update ({where})")
        elif (
            self.every_n_steps and before // self.every_n_steps < self._steps // self.every_n_steps
        ):
            self._check(f"after {self._steps} steps ({where})")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Check every so many epochs, and what could not be checked before."""
        asked = self.every_n_epochs and (epoch + 1) % self.every_n_epochs == 0
        if asked or self._update_is_due:
            self._update_is_due = self._update_is_due and not self._has_updated()
            self._start_is_due = False
            self._check(f"at the end of epoch {epoch + 1}", with_statistics=bool(asked))

    def _updates(self) -> int:
        """Updates so far: not the steps, where an optimizer accumulates gradients."""
        return sum(
            int(keras.ops.convert_to_numpy(one.optimizer.iterations))
            for one in optimizers_of(self.model)
        )

    def _has_updated(self) -> bool:
        return not optimizers_of(self.model) or self._updates() > self._updates_before

    def _check(self, when: str, with_statistics: bool = False) -> None:
        if not self._active:
            return
        rows = self._compared(with_statistics=with_statistics)
        purpose = "variables and statistics" if with_statistics else "variables"
        if met := self._of_replicas(weights_that_meet(self.model)) if self._has_met(when) else []:
            rows, purpose = [*rows, *met], f"{purpose} after a meeting"
        problem = None
        for group in self._groups:
            found = self._differences(group, rows, purpose)
            # Files of layers don't change, and were sent: they need not be the same to the byte.
            files = when.startswith("before") and not self._broadcasts
            layers = self._other_differences(group, files=files)
            texts = [f"the ranks hold different variables {when}: {found}."] if found else []
            if layers:
                texts.append(
                    "these layers compute with something else, which no variable holds, on other "
                    f"ranks {when}: {layers}."
                )
            if not texts:
                continue
            text = " ".join(texts)
            if self.repair:
                self._say_repaired(group, text)
            elif problem is None:
                problem = " ".join([text, *self._advice(when, bool(layers)), _OPT_OUT])
        if self._all_compare:  # in groups of their own
            raise_everywhere(problem, RankMismatchError)
        elif problem:
            raise RankMismatchError(problem)

    def _compared(self, *, with_statistics: bool) -> list[Tracked]:
        """The variables that the ranks must hold alike now."""
        tracked = inventory(self.model, local=self._local)
        rows = [*agreeing(tracked), *(averaged(tracked) if with_statistics else [])]
        return self._of_replicas(rows)

    def _of_replicas(self, rows: list[Tracked]) -> list[Tracked]:
        if self.process_set:
            return rows
        return [row for row in rows if row.same_on and within(self._replicas, row.same_on)]

    def _has_met(self, when: str) -> bool:
        """Whether weights that an exchange lets differ are the same now.

        They are so at the end of epochs, and before the first of all updates.
        """
        position = current_position()
        goes_on = self._updates_before or (position is not None and position.resumed)
        return when.startswith("at the end") or (when.startswith("before") and not goes_on)

    def _differences(self, group: Alike, rows: list[Tracked], purpose: str) -> str | None:
        """What differs between the ranks of a group, in words; repaired, if that is asked for."""
        variables = [row.variable for row in group.among(rows)]
        kept = f"unsharded {purpose}" if group.unsharded_only else purpose
        digests = digests_of(self.model, kept, variables, group.ranks)
        differing = [variables[i] for i in digests.differing()]
        if not differing:
            return None
        found = summary(find_differences(differing[:NAMED], group.ranks), len(differing))
        if self.repair:
            broadcast_variables(differing, group.first, group.ranks)
        return found

    def _other_differences(self, group: Alike, *, files: bool) -> str | None:
        """Whose state outside of variables differs, in words; repaired, if that is asked for."""
        found = find_other_layers(self.model, group.ranks, costly=files)
        if found and self.repair and outside_variables.send(self.model, group.first, group.ranks):
            outside_variables.remake_functions(self.model)
        return found

    def _say_repaired(self, group: Alike, text: str) -> None:
        if topology.rank() == group.first:
            logger.warning("hvdkit: %s All have rank %d's now.", text, group.first)

    def _advice(self, when: str, layers: bool) -> Iterable[str]:
        if not self._broadcasts and when.startswith("before"):
            yield (
                "Let them start alike: add hvd.callbacks.BroadcastGlobalVariablesCallback(0) to "
                "the callbacks of fit."
            )
        if layers:
            yield (
                "Adapt layers to the same rows on every rank, or on one rank and send them from "
                "there; what is no state (a salt, a number of bins) the script has to set alike. A "
                'layer of which each rank has its own on purpose says hvd_over_ranks = "own".'
            )
        for one in _not_distributed(self.model):
            where = "The optimizer" if one.name == COMPILED else f"The optimizer {one.name}"
            kind = type(one.optimizer).__name__
            yield (
                f"{where} ({kind}) is not distributed, so each rank applies its own gradients: "
                f"wrap it, as in hvd.DistributedOptimizer(keras.optimizers.{kind}(...))."
            )


def _not_distributed(model: Any) -> list[FoundOptimizer]:
    """Optimizers that train, each rank for itself; not one that nobody uses."""
    found = optimizers_of(model)
    plain = [one for one in found if not is_distributed(one.optimizer)]
    if len(plain) == len(found) == 1:
        return plain
    return [one for one in plain if int(keras.ops.convert_to_numpy(one.optimizer.iterations))]
