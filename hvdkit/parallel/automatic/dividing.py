"""Dividing a model's layers over the ranks of a tensor group, in place, and proving it right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from hvdkit import patches
from hvdkit.engine import HvdkitError, require_same
from hvdkit.graph.layer_sequence import LayerSequence
from hvdkit.mesh.mesh import Mesh
from hvdkit.parallel.automatic import proof
from hvdkit.parallel.automatic.agreed import on_all
from hvdkit.parallel.automatic.calls import Calls, calls_of
from hvdkit.parallel.automatic.divided import DividedLayer, divide, undo
from hvdkit.parallel.automatic.kinds import Roles
from hvdkit.parallel.automatic.roles import roles_of
from hvdkit.parallel.automatic.samples import sample_of
from hvdkit.parallel.automatic.weighted import is_dividable
from hvdkit.parallel.tensor import saving

# A layer with less than this of the model's weights is not worth two collectives.
_SMALL = 1e-4


def is_divided(model: Any) -> bool:
    """Whether a model, or a part of it, was divided before."""
    return any(isinstance(layer, DividedLayer) for layer in model._flatten_layers())


def find_calls(
    model: keras.Model,
    sequence: LayerSequence,
    degree: int,
    whole: Mapping[int, str],
    length: int | None = None,
) -> Calls:
    """The calls of a model's layers on a sample; nothing is changed.

    Args:
        model: the model.
        sequence: the model's layers.
        degree: a tensor degree: sizes that are not known are multiples of it.
        whole: layers into which not to look, by their ids, with the reason.
        length: the sizes that are not known; None for a few.
    """
    with proof.state_kept(model):
        return calls_of(sequence, sample_of(sequence, degree, length), whole, is_dividable)


def find_roles(model: keras.Model, calls: Calls, degree: int) -> Roles:
    """Find out which layers of a model are sharded over so many ranks; nothing is changed.

    Args:
        model: the model.
        calls: those of its layers.
        degree: the tensor degree.
    """
    smallest = _SMALL * model.count_params()

    def is_large(layer: Any) -> bool:
        return bool(layer.count_params() >= smallest)

    roles = roles_of(calls, degree, is_large)
    for layer in model._flatten_layers(include_self=False):
        if id(layer) in calls.whole:
            roles.names[id(layer)] = f"{layer.name} ({type(layer).__name__})"
            roles.reasons[id(layer)] = calls.whole[id(layer)]
    return roles


def no_layer(roles: Roles) -> str:
    """Why no layer of a model divides."""
    reasons = [f"{roles.names[key]}: {why}" for key, why in roles.reasons.items()]
    return "; ".join(reasons[:3]) or "it has no Dense, EinsumDense, Embedding"


def divide_layers(model: keras.Model, sequence: LayerSequence, mesh: Mesh) -> Roles:
    """Shard a model's layers over the ranks of the mesh's tensor groups; all ranks call it.

    The model's weights are the same on all ranks. What it gives for a sample, and its gradients,
    are compared before and after. Where they differ, composite layers stay whole; where they differ
    then too, the model is as it was.

    Raises:
        ValueError: on every rank: there is no layer to divide, with the reasons; or the model does
            not run on a random batch.
        HvdkitError: on every rank: a divided model would not do what this one does.
    """
    inputs = list(sample_of(sequence, mesh.tensor).values())
    expected = on_all(lambda: _results(model, sequence, inputs))
    degree = mesh.tensor
    roles = on_all(lambda: find_roles(model, find_calls(model, sequence, degree, {}), degree))
    if not roles.layers:
        raise ValueError(
            f"no layer of model {model.name!r} can be divided over the {degree} ranks of a "
            f"tensor group: {no_layer(roles)}. Use tensor=1, or a degree that divides."
        )
    problem = _divided_rightly(model, sequence, roles, mesh, inputs, expected)
    if problem is not None:
        reason = f"divided, {problem} would be another"
        composites = {
            id(layer): reason
            for layer in model._flatten_layers(include_self=False)
            if not is_dividable(layer) and any(map(is_dividable, layer._flatten_layers()))
        }
        roles = find_roles(model, find_calls(model, sequence, degree, composites), degree)
        problem = _divided_rightly(model, sequence, roles, mesh, inputs, expected)
    if problem is not None:
        raise HvdkitError(
            f"model {model.name!r} can't be divided over the {degree} ranks of a tensor "
            f"group: {problem} would not be what it is undivided. Use tensor=1."
        )
    patches.install(*saving.PATCHES)
    return roles


def _results(model: keras.Model, sequence: LayerSequence, inputs: list[Any]) -> list[proof.Result]:
    try:
        return proof.results(model, sequence, inputs)
    # A model may raise anything.
    except Exception as error:
        raise ValueError(
            f"model {model.name!r} can't be divided over tensor groups, as it can't be run on a "
            f"random batch, on which that would be proved: {type(error).__name__}: {error}"
        ) from error


def _divided_rightly(
    model: keras.Model,
    sequence: LayerSequence,
    roles: Roles,
    mesh: Mesh,
    inputs: list[Any],
    expected: list[proof.Result],
) -> str | None:
    """Divide a model; where it is not the same then, it is undone. Returns what differs."""
    what = [f"{roles.names[key]}: {role}" for key, (_, role) in roles.layers.items()]
    require_same("what is divided of the model", what)
    shardings = []
    done = []
    for layer, role in roles.layers.values():
        shardings += divide(layer, role, mesh)
        done.append(layer)
    try:
        found = proof.results(model, sequence, inputs)
        problem = proof.difference(model, expected, found)
    # The ranks do the same on the same sample, so this is raised on all of them.
    except (ValueError, TypeError, AttributeError) as error:
        problem = f"a call ({type(error).__name__}: {str(error).splitlines()[0]})"
    if problem is None:
        for sharding in shardings:
            sharding.settle()
        return None
    for sharding in reversed(shardings):
        sharding.undo()
    for layer in done:
        undo(layer)
    return problem
