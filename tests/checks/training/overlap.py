"""Reductions overlap with the backward pass."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import optimizers

import hvdkit as hvd


def check_overlap_buckets_in_backward_order() -> None:
    """In a graph there is more than one reduction, and each waits only for its own gradients."""
    if hvd.size() == 1:
        return
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((512,))] + [keras.layers.Dense(1024, "tanh") for _ in range(4)]
    )
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1))
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))

    graph = step.get_concrete_function(tf.ones([2, 512])).graph
    reductions = [op for op in graph.get_operations() if "HorovodAllreduce" in op.type]
    assert len(reductions) >= 4, [op.name for op in reductions]

    def ancestors(op: Any) -> set[str]:
        todo, seen = [op], set()
        while todo:
            for tensor in todo.pop().inputs:
                if tensor.op.name not in seen:
                    seen.add(tensor.op.name)
                    todo.append(tensor.op)
        return seen

    for reduction in reductions:
        assert not any("Horovod" in name for name in ancestors(reduction))
    # The kernels travel alone; the last reduction is that of the small biases together.
    depth = [len(ancestors(op)) for op in reductions[:-1]]
    assert depth == sorted(depth), "reductions are not in the order of the backward pass"
    assert depth[0] < depth[-1]
