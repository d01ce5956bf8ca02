"""The update of an optimizer whose exchange works on weights, and not on gradients only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import logger, topology
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.slots import AVERAGED
from hvdkit.exchange.tracked import Role, Shard, Tracked
from hvdkit.mesh.layout import layout_of, set_layout
from hvdkit.mesh.variable import elements_of, raw, variable_key
from hvdkit.optimizers.composition import Attached
from hvdkit.optimizers.drifting_slots import ACCUMULATOR
from hvdkit.optimizers.elementwise import has_rule_of_keras

do_not_convert = tf.autograph.experimental.do_not_convert


class OwnedUpdate(keras.optimizers.Optimizer):
    """Mixin of a distributed optimizer: this rank updates what it owns, then weights are exchanged.

    It stands next to the Keras class, so that a step that is left out is left out with its
    exchange. An exchange that changes gradients only needs none of it.
    """

    _hvd: Attached

    def build(self, variables: Sequence[Any]) -> None:
        """Build the optimizer, with slots for what this rank owns."""
        if self.built:
            super().build(variables)
            return
        owned = self._hvd_owned(variables)
        references = [v if own is None else own for own, v in zip(owned, variables, strict=True)]
        self._hvd.unsharded = {
            self._var_key(reference): variable
            for reference, variable in zip(references, variables, strict=True)
            if reference is not variable
        }
        before = len(self.variables)
        super().build(references)
        # Past the tracking of attributes. Keras is given the variables, and not what is owned.
        self.__dict__["_trainable_variables"] = list(variables)
        self.__dict__["_trainable_variables_indices"] = {
            self._var_key(variable): i for i, variable in enumerate(variables)
        }
        if any(shard is not None for shard in self._hvd.chain.shards(variables)):
            self._hvd_track_others(self.variables[before:])

    def divide_slots(self) -> None:
        """Leave this rank, of the slots that it was built with for all variables, its shards."""
        variables, old = list(self._trainable_variables), self.variables
        for slot in old:
            if slot is not self._iterations and slot is not self._learning_rate:
                self._untrack_variable(slot)
        self.built = False
        self.build(variables)
        shards = {variable_key(row.variable): row.shard for row in self._hvd.tracked}
        for slot, whole in zip(self.variables, old, strict=True):
            if slot is whole:
                continue
            shard = shards.get(variable_key(slot))
            if shard is None or shard.is_all:
                slot.assign(whole.value)
            elif shard.size:
                elements = elements_of(whole, shard.start, shard.stop)
                slot.assign(tf.reshape(elements, slot.shape))

    @property
    def has_shards(self) -> bool:
        """Whether this rank has slots that no other has."""
        return any(row.shard is not None for row in self._hvd.tracked)

    def start_shards(self) -> None:
        """Set slots that no other rank has to what they are at the start, for these weights."""
        variables = self._trainable_variables
        owned = self._hvd_owned(variables)
        for variable, own, shard in zip(
            variables, owned, self._hvd.chain.shards(variables), strict=True
        ):
            if shard is not None and shard.size and not shard.is_all:
                own.assign(elements_of(variable, shard.start, shard.stop))
        plain: Any = type(self).__bases__[-1]  # Keras's class, behind the mixins
        fresh = plain.from_config(self.get_config())
        fresh.build([v if own is None else own for own, v in zip(owned, variables, strict=True)])
        own_keys = {variable_key(row.variable) for row in self._hvd.tracked if row.shard}
        for slot, first in zip(self.variables, fresh.variables, strict=True):
            if variable_key(slot) in own_keys:
                slot.assign(first.value)

    def save_own_variables(self, store: Any) -> None:
        """Keras writes files on one rank, which has no slots but those of its shards."""
        if self.has_shards:
            logger.warning(
                "hvdkit: the file holds weights and nothing of the optimizer, whose slots are "
                "sharded over ranks: go on with the training from a checkpoint of "
                "hvd.callbacks.BackupAndRestore."
            )
            return
        super().save_own_variables(store)

    def _get_variable_index(self, variable: Any) -> int:
        key = self._var_key(variable)
        if key in self._trainable_variables_indices:
            return int(self._trainable_variables_indices[key])
        return int(super()._get_variable_index(self._hvd.unsharded[key]))

    def add_variable_from_reference(
        self, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> Any:
        """A slot is as large as what this rank owns of a variable; None where that is nothing."""
        key = self._var_key(reference_variable)
        variable = self._hvd.unsharded.get(key, reference_variable)
        (own,), (shard,) = self._hvd_owned([variable]), self._hvd.chain.shards([variable])
        # Besides the slots of a rule: Keras averages weights after they are exchanged, and adds up
        # gradients before that, unless these are exchanged at each micro-step.
        if name == AVERAGED or (name == ACCUMULATOR and not self._hvd.accumulates_exchanged):
            own, shard = variable, None
        if own is None:
            return None
        slot = super().add_variable_from_reference(own, name, initializer)
        layout = layout_of(own)
        if layout is not None:
            set_layout(slot, layout)
        role = Role.ACCUMULATOR if name == ACCUMULATOR else Role.SLOT
        if shard is not None:
            row = Tracked(slot, role, slot.path, layout_of(variable), shard=shard)
            self._hvd.tracked.append(row)
        elif own is not variable:
            self._hvd.tracked.append(Tracked(slot, role, slot.path, layout))
        return slot

    def _hvd_track_others(self, made: Sequence[Any]) -> None:
        """Say of slots that were not made like a variable whose they are.

        Rules that look at whole variables make some, such as the rows and columns of Adafactor:
        they are as the variable is, all here or without elements.

        Raises:
            NotImplementedError: it is none of Keras's own rules.
        """
        known = {variable_key(row.variable) for row in self._hvd.tracked}
        known.update(map(variable_key, getattr(self, "_accumulated_gradients", None) or []))
        averages = getattr(self, "_model_variables_moving_average", None) or []
        known.update(variable_key(average) for average in averages if average is not None)
        others = [slot for slot in made if variable_key(slot) not in known]
        if others and not has_rule_of_keras(self):
            raise NotImplementedError(
                f"with exchange={type(self._hvd.chain.exchange).__name__} each rank updates some "
                f"of the variables, and nobody knows to which {others[0].path} belongs: let "
                f"{type(self).__name__} make it with add_variable_from_reference() or "
                "add_optimizer_variables()."
            )
        for slot in others:
            if len(slot.shape):  # scalars are the same for all variables
                elements = raw(slot).shape.num_elements()
                shard = Shard(0, elements, tuple(slot.shape))
                self._hvd.tracked.append(Tracked(slot, Role.SLOT, slot.path, shard=shard))

    def _use_weight_decay(self, variable: Any) -> bool:
        # What is left out is said of variables, by their names or themselves.
        unsharded = self._hvd.unsharded.get(self._var_key(variable), variable)
        if not isinstance(variable, keras.Variable):  # Keras looks at names of TensorFlow's
            unsharded = raw(unsharded)
        return bool(super()._use_weight_decay(unsharded))

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        owned = self._hvd_owned(variables)
        super()._apply_weight_decay([own for own in owned if _has_elements(own)])

    @do_not_convert
    def _backend_update_step(
        self, grads: Sequence[Gradient], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        owned = self._hvd_owned(trainable_variables)
        pairs = [(g, own) for g, own in zip(grads, owned, strict=True) if _has_elements(own)]
        # Without any, too: some rules keep count of the steps here.
        super()._backend_update_step(
            [gradient for gradient, _ in pairs], [own for _, own in pairs], learning_rate
        )
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


def _has_elements(own: Any) -> bool:
    return own is not None and bool(raw(own).shape.num_elements())
