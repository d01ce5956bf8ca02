"""What a divided model does when it is compiled: its optimizer works over the ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from hvdkit import patches
from hvdkit.exchange.base import Exchange
from hvdkit.optimizers.composition import chains, is_distributed
from hvdkit.optimizers.distributed import DistributedOptimizer
from hvdkit.parallel.automatic.report import ParallelPlan
from hvdkit.patches import Patch

_ATTRIBUTE = "_hvdkit_parallel"


def remember(model: Any, exchange: Exchange | None, plan: ParallelPlan) -> None:
    """Let a model's `compile` make plain optimizers distributed."""
    patches.install(_PATCH)
    # Past Keras's attribute tracking: this is no part of the model.
    vars(model)[_ATTRIBUTE] = exchange, plan


def plan_of(model: keras.Model) -> ParallelPlan:
    """How `hvd.parallelize` has divided a model.

    Raises:
        ValueError: it has not.
    """
    if _ATTRIBUTE not in vars(model):
        raise ValueError(f"model {model.name!r} was not divided by hvd.parallelize.")
    plan: ParallelPlan = vars(model)[_ATTRIBUTE][1]
    return plan


def over_ranks(model: Any, optimizer: Any) -> Any:
    """A divided model's optimizer, made distributed with the exchange of `hvd.parallelize`.

    Raises:
        ValueError: it is distributed already, with another exchange.
    """
    exchange, _ = vars(model)[_ATTRIBUTE]
    optimizer = keras.optimizers.get(optimizer)
    if not is_distributed(optimizer):
        return DistributedOptimizer(optimizer, exchange=exchange)
    if exchange is not None and any(c.exchange is not exchange for c in chains(optimizer)):
        raise ValueError(
            "the optimizer is distributed already, and hvd.parallelize was given an exchange: "
            "compile with a plain optimizer, or leave out exchange= of hvd.parallelize."
        )
    return optimizer


def _compile(
    original: Callable[..., Any],
    model: Any,
    optimizer: Any = "rmsprop",
    *args: Any,
    **options: Any,
) -> Any:
    if _ATTRIBUTE in vars(model):
        optimizer = over_ranks(model, optimizer)
    return original(model, optimizer, *args, **options)


# Where it is defined: Keras saves nothing of a `compile` that a model's class overrides.
_OWNER = next(kind for kind in keras.Model.__mro__ if "compile" in vars(kind))
_PATCH = Patch(_OWNER, "compile", _compile, "a divided model's optimizer works over the ranks")
