"""Training a split model beside the same model on one device, and seeing where things are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from hvdkit.parallel.devices.local_devices import short_name


def rows(count: int, columns: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Floats, and two numbers for each row that can be learnt."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, columns)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(columns, 2))).astype("float32")
    return x, y


def train(
    build: Callable[[], keras.Model],
    optimizer: Callable[[], Any],
    data: tuple[Any, Any] | None = None,
    **options: Any,
) -> tuple[keras.Model, list[float]]:
    """Train a model that is made from a seed; returns it and the losses of the epochs."""
    keras.utils.set_random_seed(7)
    model = build()
    model.compile(optimizer=optimizer(), loss=options.pop("loss", "mse"), **options)
    x, y = data or rows(20)
    history = model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0)
    return model, history.history["loss"]


def require_same_training(
    whole: Callable[[], keras.Model],
    split: Callable[[], keras.Model],
    optimizer: Callable[[], Any],
    data: tuple[Any, Any] | None = None,
    **options: Any,
) -> tuple[keras.Model, keras.Model]:
    """Losses and weights of both are the same after 12 steps, and they have learnt."""
    one, expected = train(whole, optimizer, data, **options)
    many, found = train(split, optimizer, data, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected[-1] < 0.97 * expected[0], expected
    for mine, theirs in zip(many.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)
    return one, many


def devices_of(variables: Any) -> list[str]:
    """Where variables are."""
    return [short_name(v.value.device) for v in variables]


def require_slots_in_place(model: keras.Model) -> None:
    """Each device has slots as it has variables, and no other device has any."""
    # What an optimizer holds for itself comes first: the step and the learning rate.
    slots = devices_of(model.optimizer.variables)[2:]
    places = devices_of(model.trainable_variables)
    each = {place: slots.count(place) / places.count(place) for place in set(places)}
    assert set(slots) == set(places), slots
    assert len(set(each.values())) == 1, each


@contextlib.contextmanager
def partitions() -> Iterator[dict[str, list[Any]]]:
    """What TensorFlow's placer gives each device of the functions first run inside: nodes."""
    nodes: dict[str, list[Any]] = {}
    context.enable_run_metadata()
    context.enable_graph_collection()
    context.export_run_metadata()  # forgets what was run before
    try:
        yield nodes
        for graph in context.export_run_metadata().partition_graphs:
            for node in graph.node:
                nodes.setdefault(short_name(node.device), []).append(node)
    finally:
        context.disable_graph_collection()
        context.disable_run_metadata()


def train_step_of(model: keras.Model) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """A compiled training step, and the shapes of what its operations make, by their names."""
    step = tf.function(lambda x, y: model.train_step((x, y)), autograph=False)
    x, y = (tf.constant(a) for a in rows(8))
    graph = step.get_concrete_function(x, y).graph
    shapes = {
        op.name: tuple(op.outputs[0].shape.as_list())
        for op in graph.get_operations()
        if op.outputs and op.outputs[0].shape.rank is not None
    }
    return lambda: step(x, y), shapes


def crossing(nodes: dict[str, list[Any]]) -> list[tuple[str, str, str]]:
    """What goes from device to device: the operation that made it, from where, and to where."""
    return [
        (
            node.attr["tensor_name"].s.decode().split("_", 2)[2],
            short_name(node.attr["send_device"].s.decode()),
            device,
        )
        for device, each in nodes.items()
        for node in each
        if node.op == "_Recv" and "ControlEdge" not in node.attr["tensor_name"].s.decode()
    ]
