"""The update of an optimizer whose exchange works on weights, and not on gradients only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.batch_rows import current_rows
from hvdkit.engine import topology
from hvdkit.exchange.base import CountsRows, SeesSlots
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.layout import layout_of, set_layout
from hvdkit.mesh.variable import path_of, variable_key
from hvdkit.optimizers.composition import Attached

do_not_convert = tf.autograph.experimental.do_not_convert

# What Keras keeps for each variable besides the slots of its rule: it adds up gradients before they
# are exchanged, and averages weights after that, so these are unsharded.
_ACCUMULATOR = "gradient_accumulator"
_UNSHARDED = (_ACCUMULATOR, "average")


class OwnedUpdate(keras.optimizers.Optimizer):
    """Mixin of a distributed optimizer: this rank updates what it owns, then weights are exchanged.

    It stands next to the Keras class, so that a step that is left out is left out with its
    exchange. An exchange that changes gradients only needs none of it.
    """

    _hvd: Attached

    def build(self, variables: Sequence[Any]) -> None:
        """Build the optimizer, with slots for what this rank owns."""
        owned = zip(self._hvd_owned(variables), variables, strict=True)
        self._hvd.unsharded = {
            self._var_key(own): variable for own, variable in owned if own is not None
        }
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

    def _get_variable_index(self, variable: Any) -> int:
        place: int = super()._get_variable_index(
            self._hvd.unsharded.get(self._var_key(variable), variable)
        )
        return place

    def add_variable_from_reference(
        self, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> Any:
        """A slot is as large as what this rank owns of a variable; None where that is nothing."""
        (own,) = self._hvd_owned([reference_variable])
        described = reference_variable if name in _UNSHARDED else own
        if described is None:
            return None
        slot = super().add_variable_from_reference(described, name, initializer)
        layout = layout_of(described)
        if layout is not None:
            set_layout(slot, layout)
        if name == _ACCUMULATOR:  # which is no slot
            return slot
        if described is not reference_variable:
            self._hvd.tracked.append(Tracked(slot, Role.SLOT, slot.path, layout))
        elif variable_key(reference_variable) in self._hvd_differing():
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
        """The keys of the variables of which the exchange lets ranks hold different values."""
        return {
            variable_key(row.variable)
            for row in self._hvd.tracked
            if row.role is Role.WEIGHT and row.same_on is None
        }

    def _use_weight_decay(self, variable: Any) -> bool:
        # What is left out is said of variables, by their names or themselves.
        unsharded = self._hvd.unsharded.get(self._var_key(variable), variable)
        return bool(super()._use_weight_decay(unsharded))

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        owned = self._hvd_owned(variables)
        super()._apply_weight_decay([own for own in owned if own is not None])

    @do_not_convert
    def _backend_update_step(
        self, grads: Sequence[Gradient], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        owned = self._hvd_owned(trainable_variables)
        pairs = [(g, own) for g, own in zip(grads, owned, strict=True) if own is not None]
        if pairs:
            gradients, own_variables = map(list, zip(*pairs, strict=True))
            super()._backend_update_step(gradients, own_variables, learning_rate)
        chain = self._hvd.chain
        if chain.active:
            updates = tf.convert_to_tensor(self.iterations)
            chain.exchange.weights(chain.shared(trainable_variables), updates)

    def _hvd_owned(self, variables: Sequence[Any]) -> list[Any]:
        """What this rank updates in place of each variable: local ones themselves."""
        chain = self._hvd.chain
        if not topology.in_process_set(chain.ranks):
            return list(variables)
        shared = chain.shared(variables)
        owned = dict(zip(map(variable_key, shared), chain.exchange.owned(shared), strict=True))
        return [owned.get(variable_key(variable), variable) for variable in variables]
