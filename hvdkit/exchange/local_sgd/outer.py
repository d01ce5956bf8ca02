"""The outer optimizer of local steps: what moves the weights that a round starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import ProcessSet
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.layout import is_sharded, layout_of, set_layout
from hvdkit.mesh.variable import path_of, raw

# They update each element by itself, so a shard of a variable is enough for them.
_BY_ELEMENT = (keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW)
# Older versions of Keras 3 have no MultiOptimizer.
_COMPOSITE = (
    keras.optimizers.LossScaleOptimizer,
    getattr(keras.optimizers, "MultiOptimizer", keras.optimizers.LossScaleOptimizer),
)
_REFUSED = ("gradient_accumulation_steps", "use_ema", "loss_scale_factor")


def outer_template(outer: Any) -> Any:
    """The optimizer that `outer=` means; None for none.

    Raises:
        ValueError: one that can't be an outer optimizer.
    """
    if outer is None:
        return None
    optimizer = keras.optimizers.get(outer)
    if isinstance(optimizer, _COMPOSITE):
        raise ValueError(
            f"outer={type(optimizer).__name__} hands gradients to other optimizers: give one that "
            "updates variables, such as keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)."
        )
    if optimizer.built:
        raise ValueError(
            "outer is an optimizer that has been built already: give a new one, of which each "
            "group of variables gets a copy."
        )
    if given := [name for name in _REFUSED if getattr(optimizer, name, None)]:
        raise ValueError(
            f"outer has {', '.join(given)}, which means nothing between rounds: leave it out there."
        )
    return optimizer


class OuterStep:
    """A copy of the outer optimizer for some variables, and the weights that a round starts from.

    Args:
        template: the optimizer.
        variables: what the ranks train.
        ranks: the ranks that share it.

    Raises:
        ValueError: the ranks hold shards of a variable, and the optimizer has to see all of it.
    """

    def __init__(self, template: Any, variables: Sequence[Any], ranks: ProcessSet) -> None:
        self._variables = list(variables)
        self._ranks = ranks
        self.optimizer = type(template).from_config(template.get_config())
        _require_shards_enough(self.optimizer, variables)
        self.anchors = [_anchor(variable) for variable in variables]
        _mark_slots(self.optimizer)
        self.optimizer.build(self.anchors)

    def tracked(self) -> list[Tracked]:
        """Its variables; all ranks hold the same."""
        anchors = [
            Tracked(
                anchor, Role.SLOT, f"local_sgd/anchor/{path_of(v)}", layout_of(anchor), self._ranks
            )
            for anchor, v in zip(self.anchors, self._variables, strict=True)
        ]
        slots = [
            Tracked(one, Role.SLOT, f"local_sgd/outer/{one.path}", layout_of(one), self._ranks)
            for one in self.optimizer.variables
        ]
        return [*anchors, *slots]

    def begin(self) -> None:
        """Note where a round starts."""
        for anchor, variable in zip(self.anchors, self._variables, strict=True):
            anchor.assign(tf.convert_to_tensor(raw(variable)))

    def moved(self, means: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Where the next round starts: the optimizer's step against start less mean."""
        pairs = zip(self.anchors, means, strict=True)
        self.optimizer.apply([anchor.value - mean for anchor, mean in pairs], self.anchors)
        return [tf.convert_to_tensor(anchor.value) for anchor in self.anchors]


def _anchor(variable: Any) -> keras.Variable:
    # Its value is set when a round begins, so it need not be sent before.
    anchor = keras.Variable(
        tf.zeros(variable.shape, variable.dtype), trainable=True, name=variable.name
    )
    layout = layout_of(variable)
    if layout is not None:
        set_layout(anchor, layout)
    return anchor


def _mark_slots(optimizer: Any) -> None:
    """Let slots of shards be known as shards."""
    add = optimizer.add_variable_from_reference

    def add_marked(reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        slot = add(reference_variable, *args, **kwargs)
        layout = layout_of(reference_variable)
        if layout is not None and slot is not None:
            set_layout(slot, layout)
        return slot

    vars(optimizer)["add_variable_from_reference"] = add_marked


def _require_shards_enough(optimizer: Any, variables: Sequence[Any]) -> None:
    sharded = [path_of(variable) for variable in variables if is_sharded(variable)]
    clips = optimizer.clipnorm is not None or optimizer.global_clipnorm is not None
    if sharded and (clips or type(optimizer) not in _BY_ELEMENT):
        raise ValueError(
            f"the outer {type(optimizer).__name__} would see only this rank's shard of "
            f"{sharded[0]}: use SGD, Adam or AdamW, without clipnorm and global_clipnorm."
        )
