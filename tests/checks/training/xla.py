"""Models compiled by XLA: the reduction stays outside of what is compiled."""

from __future__ import annotations

import keras
import tensorflow as tf
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd


@long
def check_xla_compiles_forward_and_backward() -> None:
    """The compiled part of the step is marked so in the graph, and the reduction is not in it."""
    x, y = data(16, seed=hvd.rank())
    model = mlp(0)
    model.compile(
        optimizer=hvd.DistributedOptimizer(optimizers.SGD(0.1)), loss="mse", jit_compile=True
    )
    model.fit(x, y, batch_size=4, verbose=0)
    assert model.jit_compile
    if hvd.size() == 1:
        return
    from hvdkit.training import xla

    step = xla.split_at_optimizer(model, model.train_step)
    graph = tf.function(step).get_concrete_function((tf.constant(x[:4]), tf.constant(y[:4]))).graph
    functions = {f.signature.name: f for f in graph.as_graph_def().library.function}
    compiled = [f for f in functions.values() if f.attr["_XlaMustCompile"].b]
    assert compiled, "nothing is compiled"
    assert not any("Horovod" in node.op for f in compiled for node in f.node_def)
    assert any("Horovod" in op.type for op in graph.get_operations())


@long
def check_sync_batch_normalization_under_xla_falls_back() -> None:
    x, y = data(16, seed=hvd.rank())
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((6,)), hvd.SyncBatchNormalization(), keras.layers.Dense(2)]
    )
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse", jit_compile=True)
    model.fit(x, y, batch_size=4, verbose=0)
    same_on_all_ranks(model)
