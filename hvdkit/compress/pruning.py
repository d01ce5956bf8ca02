"""Pruning by magnitude while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from hvdkit.compress.groups import Group
from hvdkit.compress.masks import Masked, average_masked, masked, set_mask
from hvdkit.compress.schedule import Cubic
from hvdkit.compress.units import Units, Weights
from hvdkit.engine import ProcessSet, broadcast_object, is_initialized, logger, topology
from hvdkit.exchange.parameter_server import ParameterServer
from hvdkit.mesh.variable import constrain
from hvdkit.optimizers.composition import chains
from hvdkit.state.groups import ranks_of_optimizer
from hvdkit.state.reachable import has_variables, leading_optimizer


class Pruning(keras.callbacks.Callback):
    """Prune the smallest weights, neurons or heads while `fit` trains the others.

    By a schedule it chooses, in each layer, the units of the smallest norms, sets them to zero, and
    keeps them so: masks become constraints of the variables, which the optimizer applies after
    everything else (momentum, weight decay, averages). They stay there after `fit`, for a next one
    (which needs the callback again if `use_ema` puts averages in at its end); files of the model
    hold the zeros, and not the masks. All ranks have the choice of the first one of those that
    train together. Steps are counted from the first `fit` with this callback; they
    and the masks are in the checkpoints of `BackupAndRestore`.

    List it after callbacks that set weights, such as `EarlyStopping(restore_best_weights=True)`.

    Args:
        schedule: the sparsity over the steps.
        units: what is pruned: `Weights()`, `Neurons()` or `Heads()`, of all layers or some.

    Raises:
        ValueError: on every rank, as training begins: there is nothing of this kind to prune, or a
            layer can't be pruned so; variables are sharded over ranks; the model has no variables
            yet; several local devices (MirroredStrategy), or a ParameterServer.

    Example:
        >>> pruning = hvd.compress.Pruning(hvd.compress.Cubic(0.8, end=2000))
        >>> model.fit(train, epochs=10, callbacks=[start, pruning])
    """

    def __init__(self, schedule: Cubic, units: Units | None = None) -> None:
        super().__init__()
        self.schedule = schedule
        self.units: Units = Weights() if units is None else units
        self._model_of_groups: Any = None
        self._groups: list[Group] = []
        self._kept: list[np.ndarray] = []
        self._masks: dict[int, tuple[Any, Masked]] = {}
        self._restored: dict[str, Any] | None = None
        self._step = 0
        self._change: int | None = None

    @property
    def sparsity(self) -> float:
        """The share of the units that are pruned now."""
        units = sum(group.units for group in self._groups)
        return 1 - sum(int(kept.sum()) for kept in self._kept) / units if units else 0.0

    def get_state(self) -> dict[str, Any]:
        """For checkpoints: the steps so far, and what is left."""
        kept = {str(i): np.packbits(kept) for i, kept in enumerate(self._kept)}
        return {"step": self._step, "change": self._change, "kept": kept}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._restored = state
        if self._groups:
            self._restore()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find what can be pruned, and put masks there."""
        self._agreed = False
        self._began = 0
        if self._model_of_groups is self.model:
            return
        self._require_trainable_here()
        self._groups = self.units.find(self.model)
        self._kept = [np.ones(group.units, bool) for group in self._groups]
        variables = [part.variable for group in self._groups for part in group.slices]
        unique = {id(variable): variable for variable in variables}
        self._masks = {key: (variable, masked(variable)) for key, variable in unique.items()}
        self._model_of_groups = self.model
        self.model.make_train_function(force=True)  # it may have been traced without the masks
        self._restore()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Before the first batch let all ranks have the same masks, also those that are new."""
        self._began = batch
        if not self._agreed:
            self._agreed = True
            self._restored = self._from_first(self.get_state)
            self._restore()
            self._prune()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Prune, if the schedule says so."""
        self._step += batch + 1 - self._began
        self._prune()
        average_masked(leading_optimizer(self.model), self._masks)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Set to zero what averages of weights, put in at the end of a training, brought back."""
        for variable, _ in self._masks.values():
            constrain(variable)
        if self._step < self.schedule.end and (not is_initialized() or topology.rank() == 0):
            logger.warning(
                "hvdkit: Pruning has seen %d steps, and its schedule goes to %d: the sparsity is "
                "%.3f, and not %.3f.",
                self._step,
                self.schedule.end,
                self.sparsity,
                self.schedule.sparsity,
            )

    def _require_trainable_here(self) -> None:
        if not has_variables(self.model):
            raise ValueError(
                f"the model {self.model.name!r} has no variables yet that could be pruned: give it "
                "an Input, or call it on a batch first."
            )
        if self.model.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "Pruning knows one device in each rank, and not several (MirroredStrategy): use "
                "one rank for each device."
            )
        if any(
            isinstance(chain.exchange, ParameterServer)
            for chain in chains(leading_optimizer(self.model))
        ):
            raise ValueError(
                "Pruning does not go with exchange=ParameterServer, whose servers update weights "
                "at any time: use another exchange."
            )

    def _prune(self) -> None:
        change = self.schedule.last_change(self._step)
        if change is None or change == self._change:
            return
        sparsity = self.schedule.sparsity_at(change)

        def choose() -> list[np.ndarray]:
            pairs = zip(self._groups, self._kept, strict=True)
            return [np.packbits(group.kept(sparsity, before)) for group, before in pairs]

        self._change = change
        self._set(self._from_first(choose))

    def _restore(self) -> None:
        if self._restored is None:
            return
        state, self._restored = self._restored, None
        packed = [state["kept"][name] for name in sorted(state["kept"], key=int)]
        sizes = [len(np.packbits(kept)) for kept in self._kept]
        if [len(one) for one in packed] != sizes:
            raise ValueError(
                "the masks of the checkpoint are those of another model, or of other units: go on "
                "with the model and the Pruning that it was written with."
            )
        self._step, self._change = state["step"], state["change"]
        self._set(packed)

    def _set(self, packed: Sequence[np.ndarray]) -> None:
        """Let units stay, or be pruned, as packed bits say."""
        self._kept = [
            np.unpackbits(bits, count=group.units).astype(bool)
            for bits, group in zip(packed, self._groups, strict=True)
        ]
        elements: dict[int, np.ndarray] = {}
        for group, kept in zip(self._groups, self._kept, strict=True):
            for part in group.slices:
                stay, key = part.spread(kept), id(part.variable)
                elements[key] = elements[key] & stay if key in elements else stay
        for key, (variable, mask) in self._masks.items():
            set_mask(variable, mask, elements[key])

    @property
    def _ranks(self) -> ProcessSet | None:
        """The ranks that train together, this one among them; None where it trains alone."""
        if not is_initialized() or topology.size() == 1:
            return None
        ranks = ranks_of_optimizer(leading_optimizer(self.model))
        return ranks if ranks is not None and topology.in_process_set(ranks) else None

    def _from_first(self, make: Callable[[], Any]) -> Any:
        """What the first of the ranks that train together makes."""
        ranks = self._ranks
        if ranks is None:
            return make()
        first = topology.process_set_ranks(ranks)[0]
        own = make() if topology.rank() == first else None
        return broadcast_object(own, first, name="hvdkit.pruning", process_set=ranks)
