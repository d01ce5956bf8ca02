"""Floating-point operations that a graph takes, and those that its gradient takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from hvdkit.monitoring.readings.loops import passes
from hvdkit.monitoring.readings.products import UnknownOperationsError, product_of

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_LOOPS = ("While", "StatelessWhile")
_CHOICES = ("If", "StatelessIf")
_STOPS = ("StopGradient", "PreventGradient")


class Count(NamedTuple):
    """What a graph, or one operation of it, takes.

    Attributes:
        forward: floating-point operations.
        backward: those of its gradient.
        wanted: to which of its inputs a gradient flows.
    """

    forward: float
    backward: float
    wanted: list[bool]


def count(graph: Any, depends: Sequence[bool], wanted: Sequence[bool]) -> Count:
    """What a graph takes.

    A product's gradient takes as much as the product for each operand that depends on a trainable
    weight, if a gradient flows to its result.

    Args:
        graph: a function's.
        depends: which of its inputs depend on a trainable weight.
        wanted: to which of its outputs a gradient flows.

    Raises:
        UnknownOperationsError: that is not known.
    """
    known = _dependent(graph, depends)
    flows = {id(t): False for t in graph.inputs}
    for tensor, does in zip(graph.outputs, wanted, strict=True):
        flows[id(tensor)] = does or flows.get(id(tensor), False)
    forward = backward = 0.0
    for operation in reversed(_operations(graph)):
        given = [known[id(tensor)] for tensor in operation.inputs]
        results = [flows.get(id(t), False) and _has_gradient(t) for t in operation.outputs]
        here = _count_at(operation, given, results)
        forward, backward = forward + here.forward, backward + here.backward
        for tensor, does in zip(operation.inputs, here.wanted, strict=True):
            flows[id(tensor)] = does or flows.get(id(tensor), False)
    return Count(forward, backward, [flows[id(tensor)] for tensor in graph.inputs])


def _count_at(operation: Any, depends: list[bool], wanted: list[bool]) -> Count:
    if operation.type in _CALLS:
        return count(_function(operation, "f"), depends, wanted)
    if operation.type in _LOOPS:
        return _count_loop(operation, depends, wanted)
    if operation.type in _CHOICES:
        return _count_choice(operation, depends[1:], wanted)
    product = product_of(operation)
    if product is None and any(a.HasField("func") for a in operation.node_def.attr.values()):
        raise UnknownOperationsError(f"nobody looks into {operation.type} ({operation.name})")
    flows = any(wanted) and operation.type not in _STOPS
    sent_back = [flows] * len(operation.inputs)
    if product is None:
        return Count(0.0, 0.0, sent_back)
    backward = product.flops * sum(flows and depends[i] for i in product.operands)
    return Count(product.flops, backward, sent_back)


def _count_loop(operation: Any, depends: list[bool], wanted: list[bool]) -> Count:
    body = _function(operation, "body")
    depends = _after_loop(body, depends)
    once = count(body, depends, wanted)
    # A gradient that flows to the start of a pass flows to the end of the one before it.
    while (more := _either(wanted, once.wanted)) != wanted:
        wanted = more
        once = count(body, depends, wanted)
    if once.forward == 0:
        return Count(0.0, 0.0, wanted)
    times = passes(operation, _function(operation, "cond"), body)
    if times is None:
        raise UnknownOperationsError(f"how often the loop {operation.name} is passed is not known")
    return Count(times * once.forward, times * once.backward, wanted)


def _count_choice(operation: Any, depends: list[bool], wanted: list[bool]) -> Count:
    one, other = (count(branch, depends, wanted) for branch in _branches(operation))
    if one[:2] != other[:2]:
        raise UnknownOperationsError(f"the branches of {operation.name} take different numbers")
    return Count(one.forward, one.backward, [False, *_either(one.wanted, other.wanted)])


def _dependent(graph: Any, depends: Sequence[bool]) -> dict[int, bool]:
    """Which tensors of a graph depend on a trainable weight, by identity."""
    known = {id(tensor): does for tensor, does in zip(graph.inputs, depends, strict=True)}
    for operation in _operations(graph):
        results = _dependent_at(operation, [known[id(tensor)] for tensor in operation.inputs])
        for tensor, does in zip(operation.outputs, results, strict=True):
            known[id(tensor)] = does and _has_gradient(tensor)
    return known


def _dependent_at(operation: Any, depends: list[bool]) -> list[bool]:
    if operation.type in _CALLS:
        return _results(_function(operation, "f"), depends)
    if operation.type in _LOOPS:
        return _after_loop(_function(operation, "body"), depends)
    if operation.type in _CHOICES:
        return _either(*(_results(branch, depends[1:]) for branch in _branches(operation)))
    return [any(depends) and operation.type not in _STOPS] * len(operation.outputs)


def _results(graph: Any, depends: Sequence[bool]) -> list[bool]:
    known = _dependent(graph, depends)
    return [known[id(tensor)] for tensor in graph.outputs]


def _after_loop(body: Any, depends: list[bool]) -> list[bool]:
    """Which variables of a loop depend on a weight in some pass."""
    while (more := _either(depends, _results(body, depends))) != depends:
        depends = more
    return depends


def _either(one: Sequence[bool], other: Sequence[bool]) -> list[bool]:
    return [a or b for a, b in zip(one, other, strict=True)]


def _branches(operation: Any) -> list[Any]:
    return [_function(operation, name) for name in ("then_branch", "else_branch")]


def _function(operation: Any, attribute: str) -> Any:
    """The graph of a function that an operation calls."""
    return operation.graph._get_function(operation.get_attr(attribute).name).graph


def _operations(graph: Any) -> list[Any]:
    """What runs of a graph, from its inputs to its outputs; TensorFlow leaves out the rest."""
    needed = _needed([tensor.op for tensor in graph.outputs] + list(graph.control_outputs))
    inputs = {id(tensor.op) for tensor in graph.inputs}
    return [op for op in graph.get_operations() if op in needed and id(op) not in inputs]


def _needed(results: Iterable[Any]) -> set[Any]:
    needed: set[Any] = set()
    todo = list(results)
    while todo:
        operation = todo.pop()
        if operation not in needed:
            needed.add(operation)
            todo += [tensor.op for tensor in operation.inputs]
            todo += operation.control_inputs
    return needed


def _has_gradient(tensor: Any) -> bool:
    dtype = tensor.dtype
    # Resources are weights, variants are lists of tensors.
    return bool(dtype.is_floating or dtype.is_complex or dtype in (tf.resource, tf.variant))
