"""Slots of weights that may differ between ranks: each rank has its own for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch_rows import current_rows
from hvdkit.exchange.abilities import CountsRows, SeesSlots
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.layout import layout_of
from hvdkit.mesh.variable import path_of, variable_key
from hvdkit.optimizers.composition import Attached

do_not_convert = tf.autograph.experimental.do_not_convert

ACCUMULATOR = "gradient_accumulator"
"""What Keras calls a variable in which it adds up gradients before they are exchanged."""


class DriftingSlots(keras.optimizers.Optimizer):
    """Mixin of a distributed optimizer whose exchange works on weights: it notes their slots.

    What it notes is saved by each rank, and the exchange hears of it, as of the rows in a step.
    """

    _hvd: Attached

    def build(self, variables: Sequence[Any]) -> None:
        """Build the optimizer, and note the slots that are each rank's own."""
        super().build(variables)
        self.adopt_slots(variables)

    @do_not_convert
    def apply(self, grads: Sequence[Gradient], trainable_variables: Any = None) -> None:
        """Apply gradients as in Keras; the exchange hears of the rows that they are of."""
        chain, rows = self._hvd.chain, current_rows()
        if rows is not None and isinstance(chain.exchange, CountsRows) and chain.active:
            updated = self._trainable_variables if self.built else list(trainable_variables)
            chain.exchange.count_rows(rows, chain.shared(updated))
        super().apply(grads, trainable_variables)

    def add_variable_from_reference(
        self, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> Any:
        """Note a slot of a weight that differs."""
        slot = super().add_variable_from_reference(reference_variable, name, initializer)
        differs = variable_key(reference_variable) in self._hvd_differing()
        if differs and slot is not None and name != ACCUMULATOR:  # which is no slot
            self._hvd_note(slot, reference_variable, str(name))
        return slot

    def adopt_slots(self, variables: Sequence[Any]) -> None:
        """Find slots of weights that differ which were not made as slots of these, or before.

        Args:
            variables: the optimizer's, or all of them.
        """
        differing = self._hvd_differing()
        if not differing:
            return
        accumulators = getattr(self, "_accumulated_gradients", None) or []
        known = {variable_key(row.variable) for row in self._hvd.tracked}
        known.update(variable_key(one) for one in accumulators if one is not None)
        # How Keras begins the names of slots; the longest one that fits is the variable's.
        prefixes = {f"{path_of(one).replace('/', '_')}_": one for one in variables}
        for slot in self.variables:
            if variable_key(slot) in known:
                continue
            prefix = max((p for p in prefixes if slot.name.startswith(p)), key=len, default=None)
            if prefix is None:
                if len(slot.shape):  # not a step, nor a learning rate
                    self._hvd_note(slot, None, "")
            elif variable_key(prefixes[prefix]) in differing:
                self._hvd_note(slot, prefixes[prefix], slot.name.removeprefix(prefix))

    def _hvd_note(self, slot: Any, variable: Any, name: str) -> None:
        """Note a slot of which each rank has its own for a while."""
        row = Tracked(slot, Role.SLOT, slot.path, layout_of(slot), resumes_from_mean=True)
        self._hvd.tracked.append(row)
        exchange = self._hvd.chain.exchange
        if isinstance(exchange, SeesSlots):
            exchange.add_slot(slot, variable, name, self)

    def _hvd_differing(self) -> set[int]:
        """The keys of the variables of which the exchange lets ranks have different slots."""
        return {
            variable_key(row.variable)
            for row in self._hvd.tracked
            if row.role is Role.WEIGHT and (row.same_on is None or row.own_slots)
        }
