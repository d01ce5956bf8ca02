"""Bring a model together where its ranks have drifted apart: weights, and moving statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hvdkit.engine import is_initialized
from hvdkit.exchange.abilities import Meets, Reports
from hvdkit.exchange.chain import Chain
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import variable_key
from hvdkit.optimizers.composition import attached_to, chains, leaves
from hvdkit.state.inventory import inventory
from hvdkit.state.reachable import optimizers_of
from hvdkit.state.statistics import average_statistics


def bring_together(model: Any) -> None:
    """Give all ranks the same weights and moving statistics, before they are used or saved.

    Args:
        model: the model; all ranks of its optimizers' exchanges call this.
    """
    if is_initialized():
        for exchange, chain, variables in _meeting(model):
            exchange.meet(chain.shared(variables))
    average_statistics(model)


def weights_that_meet(model: Any) -> list[Tracked]:
    """The weights that are the same on all ranks after `bring_together`, and before a training.

    Between that the ranks have each its own. The rows say on which ranks they are the same.
    """
    ranks = {
        variable_key(variable): chain.ranks
        for _, chain, variables in _meeting(model)
        for variable in chain.shared(variables)
    }
    return [
        replace(row, same_on=ranks[variable_key(row.variable)])
        for row in inventory(model)
        if row.role is Role.WEIGHT and row.same_on is None and variable_key(row.variable) in ranks
    ]


def reported(model: Any) -> dict[str, float]:
    """What the exchanges of a model's optimizers tell in the logs of an epoch."""
    if not is_initialized():
        return {}
    exchanges = {
        id(chain.exchange): chain.exchange
        for one in optimizers_of(model)
        for chain in chains(one.optimizer)
    }
    found: dict[str, float] = {}
    for exchange in exchanges.values():
        if isinstance(exchange, Reports):
            found |= exchange.logs()
    return found


def _meeting(model: Any) -> Iterator[tuple[Meets, Chain, list[Any]]]:
    """The exchanges that let weights differ and bring them together, with what they are for."""
    for one in optimizers_of(model):
        for leaf in leaves(one.optimizer):
            attached = attached_to(leaf)
            if attached is None or not leaf.built or not attached.chain.active:
                continue
            exchange = attached.chain.exchange
            if isinstance(exchange, Meets):
                yield exchange, attached.chain, leaf._trainable_variables
