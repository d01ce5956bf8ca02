"""Local steps on the data axis of a mesh, with shards over its tensor axis."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.rounds.steps import close
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import LocalSGD
from hvdkit.mesh.layout import Layout, layout_of, set_layout
from hvdkit.optimizers.composition import tracked_of


def check_replicas_meet_and_shards_stay_apart() -> None:
    mesh = hvd.Mesh(data=hvd.size() // 2, tensor=2)
    hvd.set_mesh(mesh)
    shard = keras.Variable([0.0, 0.0], name="shard")
    set_layout(shard, Layout(mesh, {"tensor": 0}))
    whole = keras.Variable([0.0], name="whole")
    exchange = LocalSGD(2, outer=optimizers.SGD(1.0, momentum=0.5))
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=exchange)
    optimizer.build([shard, whole])
    step = tf.function(lambda *gradients: optimizer.apply([*gradients]))
    replica, place = mesh.data_index, mesh.tensor_index
    own = 10.0 * place + replica + 1
    for _ in range(2):
        step(tf.constant([own, own]), tf.constant([replica + 1.0]))
    mean = (mesh.data + 1) / 2
    close([shard.numpy(), whole.numpy()], [[-2 * (10 * place + mean)] * 2, [-2 * mean]])
    kept = [row for row in tracked_of(optimizer) if row.variable.shape == (2,)]
    assert len(kept) == 3  # the shard, its anchor, and the outer momentum
    assert all(layout_of(row.variable).is_sharded for row in kept)
    clipping = LocalSGD(2, outer=optimizers.SGD(1.0, global_clipnorm=1.0))
    with pytest.raises(ValueError, match="global_clipnorm"):
        hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=clipping).build([shard])
    hvd.set_mesh(None)
    np.testing.assert_equal(exchange.ranks.size(), mesh.data)
