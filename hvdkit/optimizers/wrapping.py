"""How a Keras optimizer becomes a distributed one.

It becomes an instance of a subclass of its own class: it keeps its variables and settings, and
since the subclass has the base class's name and module, a `.keras` file saved with it names the
plain Keras class and loads where hvdkit is not installed.
"""

from __future__ import annotations

import functools
from typing import Any

import keras

from hvdkit import patches
from hvdkit.engine import logger
from hvdkit.exchange.abilities import Divides, Particular
from hvdkit.exchange.base import leaves_weights
from hvdkit.exchange.chain import Chain
from hvdkit.keras_internals import is_keras2_optimizer, save_under_name_of
from hvdkit.mesh.layout import is_sharded
from hvdkit.optimizers import loss_scaling
from hvdkit.optimizers.clipping import ClippedOverRanks
from hvdkit.optimizers.composition import (
    Attached,
    attach,
    attached_to,
    inner_optimizers,
    is_composite,
    is_distributed,
    leaves,
)
from hvdkit.optimizers.drifting_slots import DriftingSlots
from hvdkit.optimizers.finite import FiniteGuard, Guarded
from hvdkit.optimizers.mixins import DistributedComposite, DistributedLeaf
from hvdkit.optimizers.nonfinite_policy import Policy
from hvdkit.optimizers.on_local_replicas import OnLocalReplicas
from hvdkit.optimizers.owned_update import OwnedUpdate


def distribute(
    optimizer: Any,
    chain: Chain,
    *,
    name: str | None = None,
    passes: int = 1,
    average: bool = False,
    nonfinite: Policy | None = None,
) -> Any:
    """Make an optimizer distributed, in place.

    Args:
        optimizer: as `plain_optimizer` returns it.
        chain: what happens to its gradients between ranks.
        name: see `DistributedOptimizer`.
        passes: its `backward_passes_per_step`.
        average: its `average_aggregated_gradients`.
        nonfinite: see `DistributedOptimizer`.

    Returns:
        The optimizer.

    Raises:
        ValueError: see `DistributedOptimizer`.
    """
    multiplier = _accumulate(optimizer, passes, average)
    prefix = _scope_name(name or f"Distributed{type(optimizer).__name__}")
    leaf_mixins: tuple[type, ...] = (DistributedLeaf,)
    if nonfinite is not None:
        leaf_mixins += (Guarded,)
    leaf_mixins += (ClippedOverRanks, OnLocalReplicas)
    if not leaves_weights(chain.exchange):
        leaf_mixins += (DriftingSlots, OwnedUpdate)

    def make_distributed(one: Any) -> None:
        if attached_to(one) is not None:
            return
        _require_marked_slots(one)
        if isinstance(chain.exchange, Particular) and not is_composite(one):
            chain.exchange.require_fitting(one)
        mixins = (DistributedComposite,) if is_composite(one) else leaf_mixins
        one.__class__ = _distributed_class(mixins, one.__class__)
        attach(one, Attached(chain, prefix, multiplier, make_distributed))
        if nonfinite is not None and not is_composite(one):
            vars(one)["_hvd_guard"] = FiniteGuard(nonfinite)
        if one.built and not is_composite(one):
            _take_built(one, chain)
            if isinstance(one, DriftingSlots):
                one.adopt_slots(one._trainable_variables)
        for inner in inner_optimizers(one):
            make_distributed(inner)

    patches.install(*loss_scaling.PATCHES)
    make_distributed(optimizer)
    return optimizer


@functools.cache
def _distributed_class(mixins: tuple[type, ...], base: type) -> type:
    """The subclass that a distributed optimizer is an instance of; it is saved as its base.

    Optimizers become instances of it, and none is made of it: `type(optimizer)(...)`, and so
    `from_config`, copies and pickles make one of the base class, which can be used, or made
    distributed in turn.
    """

    def new(_: type, *args: Any, **kwargs: Any) -> Any:
        return base(*args, **kwargs)

    def reduced(self: Any) -> tuple[Any, ...]:
        plain: Any = base
        function, *rest = plain.__reduce__(self)
        return (getattr(base, function.__name__), *rest)  # a method of the class, in Keras

    attributes = {
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "__new__": new,
        "__reduce__": reduced,
    }
    distributed = type(base.__name__, (*mixins, base), attributes)
    save_under_name_of(distributed, base)
    return distributed


def plain_optimizer(optimizer: Any) -> Any:
    """An optimizer that can be made distributed, from one, its name or its config.

    Raises:
        TypeError: it is none of Keras 3.
        ValueError: it is distributed already.
    """
    if is_keras2_optimizer(optimizer):
        raise TypeError(
            f"{type(optimizer).__module__}.{type(optimizer).__name__} is an optimizer of Keras 2 "
            "or TensorFlow 1; use the one of the same name in keras.optimizers (Keras 3)."
        )
    if isinstance(optimizer, (str, dict)):
        optimizer = keras.optimizers.get(optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "DistributedOptimizer takes a Keras 3 optimizer, its name or its config, not "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}."
        )
    if is_distributed(optimizer):
        raise ValueError(f"this {type(optimizer).__name__} optimizer is distributed already.")
    return optimizer


def _require_marked_slots(optimizer: Any) -> None:
    """Refuse an optimizer whose slots were made before anybody noted how they lie over ranks."""
    if optimizer.built and any(map(is_sharded, optimizer._trainable_variables)):
        raise ValueError(
            "the optimizer has been built for variables that are divided over ranks: wrap it with "
            "hvd.DistributedOptimizer before that, when it is made."
        )


def _take_built(optimizer: Any, chain: Chain) -> None:
    """Go on with an optimizer that has its slots already."""
    if isinstance(chain.exchange, Divides):
        optimizer.divide_slots()
        return
    optimizer._hvd_build_exchange(optimizer._trainable_variables)
    _require_own_slots(optimizer, chain)


def _require_own_slots(optimizer: Any, chain: Chain) -> None:
    """Refuse an optimizer whose slots were made before its exchange said what is owned."""
    variables = chain.shared(optimizer._trainable_variables)
    owned = chain.exchange.owned(variables)
    if any(own is not variable for own, variable in zip(owned, variables, strict=True)):
        raise ValueError(
            f"with exchange={type(chain.exchange).__name__} each rank updates a share of the "
            "variables, and this optimizer has been built with slots for all of them: wrap it with "
            "hvd.DistributedOptimizer before it is built."
        )


def _accumulate(optimizer: Any, passes: int, average: bool) -> float:
    """Turn on Keras's accumulation; returns the factor that makes its average a sum."""
    if not isinstance(passes, int) or passes < 1:
        raise ValueError(f"backward_passes_per_step is an integer above 0, not {passes!r}.")
    if passes == 1:
        return 1.0
    for leaf in leaves(optimizer):
        if leaf.gradient_accumulation_steps not in (None, passes):
            raise ValueError(
                f"the optimizer has gradient_accumulation_steps="
                f"{leaf.gradient_accumulation_steps}, which hvdkit honours; it contradicts "
                f"backward_passes_per_step={passes}. Set one of the two."
            )
        if leaf.gradient_accumulation_steps is None and leaf.built:
            raise ValueError(
                "backward_passes_per_step needs an optimizer that has not been built yet: "
                "wrap it before the first step, or give it gradient_accumulation_steps itself."
            )
        leaf.gradient_accumulation_steps = passes
    if average:
        return 1.0
    logger.info(
        "hvdkit: backward_passes_per_step=%d sums the gradients of the %d steps, as in Horovod; "
        "average_aggregated_gradients=True averages them.",
        passes,
        passes,
    )
    return float(passes)


def _scope_name(name: str) -> str:
    """A name that TensorFlow accepts as a scope."""
    return "".join(c if c.isalnum() or c in "_.-" else "_" for c in name).lstrip("_.-") or "hvdkit"
