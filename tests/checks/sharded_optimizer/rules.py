"""Every optimizer that Keras ships steps as it does alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from checks.marks import long
from checks.sharded_optimizer.twins import require_equal_to_plain
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import Sharded
from hvdkit.optimizers.composition import tracked_of

RULES: dict[str, Callable[[], Any]] = {
    "SGD": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "RMSprop": lambda: optimizers.RMSprop(0.05, centered=True, momentum=0.5),
    "Adam": lambda: optimizers.Adam(0.1, amsgrad=True),
    "AdamW": lambda: optimizers.AdamW(0.1, weight_decay=0.1),
    "Adadelta": lambda: optimizers.Adadelta(1.0),
    "Adagrad": lambda: optimizers.Adagrad(0.1),
    "Adamax": lambda: optimizers.Adamax(0.1),
    "Nadam": lambda: optimizers.Nadam(0.1),
    "Ftrl": lambda: optimizers.Ftrl(0.1, l1_regularization_strength=0.01),
    "Lion": lambda: optimizers.Lion(0.05),
    "Lamb": lambda: optimizers.Lamb(0.1),
    "Adafactor": lambda: optimizers.Adafactor(0.1),
}
# Older versions of Keras 3 have none.
if hasattr(optimizers, "ScheduleFreeAdamW"):
    RULES["ScheduleFreeAdamW"] = lambda: optimizers.ScheduleFreeAdamW(0.1, warmup_steps=2)
if hasattr(optimizers, "Muon"):
    RULES["Muon"] = lambda: optimizers.Muon(0.1, weight_decay=0.1, exclude_layers=["weight_3"])


class Scaled(optimizers.SGD):
    """A rule of one's own, which looks at the whole variable."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        norm = tf.norm(tf.cast(gradient, tf.float32))
        super().update_step(gradient / (norm + 1.0), variable, learning_rate)


@long
def check_each_rule_of_keras() -> None:
    for name, make in RULES.items():
        optimizer = require_equal_to_plain(make, Sharded(), what=name, steps=2)
        slots = [row for row in tracked_of(optimizer) if row.shard is not None]
        assert slots or hvd.size() == 1, name
        assert all(row.same_on is None for row in slots)


def check_rules_of_ones_own_see_whole_variables() -> None:
    require_equal_to_plain(lambda: Scaled(0.1), Sharded(), steps=2)


@long
def check_each_rule_in_a_graph_and_at_stage_2() -> None:
    for name, make in RULES.items():
        for stage in (1, 2):

            def accumulates(make: Any = make) -> Any:
                optimizer = make()
                optimizer.gradient_accumulation_steps = 2
                return optimizer

            for one in (make, accumulates):
                require_equal_to_plain(
                    one, Sharded(stage), what=name, compile_step=tf.function, steps=5
                )
