"""An elastic job whose step is one tf.function, made once and outside the elastic function.

    python elastic_step.py FOLDER

Two ranks start, one kills itself, and another joins; each step checks what it has reduced.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

HOSTS = Path(sys.argv[1]) / "hosts"
STEPS_OF_TWO = 5
STEPS_ALONE = 3
MOST_STEPS_ALONE = 200

hvd.init()
table = keras.Variable(tf.zeros([4, 2]))
weight = keras.Variable([0.0])
local = tf.Variable([0.0])
optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0))
optimizer.build([weight])


@tf.function
def step(own: tf.Tensor, communicates: bool = True) -> dict[str, tf.Tensor]:
    """Gradients that are the mean over ranks of `own`, and the sums of collectives."""
    with tf.GradientTape() as tape:
        rows = tf.gather(table.value, [1, 1])
        loss = own * (tf.reduce_sum(weight.value) + tf.reduce_sum(local) + tf.reduce_sum(rows))
    if not communicates:
        return {}
    tape = hvd.DistributedGradientTape(tape)
    tape.register_local_source(local)
    dense, sparse, divided = tape.gradient(loss, [weight, table, local])
    before = weight.value[0]
    optimizer.apply_gradients([(tf.reshape(own, [1]), weight)])
    with tf.GradientTape() as tape:
        tape.watch(own)
        gathered = hvd.allgather(tf.reshape(own, [1]))
        total = tf.reduce_sum(gathered)
    return {
        "dense": dense[0],
        "sparse": tf.convert_to_tensor(sparse)[1, 0] / 2,
        "optimizer": before - weight.value[0],
        "allreduce": hvd.allreduce(own),
        "bfloat16": hvd.allreduce(own, compression=hvd.Compression.bf16),
        "gathered": total / tf.cast(tf.size(gathered), tf.float32),
        "gradient of allgather": tape.gradient(total, own) * hvd.allreduce(own),
        "local": divided[0] * tf.cast(hvd.size_op(), tf.float32) - own + hvd.allreduce(own),
        "broadcast": (hvd.broadcast(own, 0) + hvd.allreduce(own, op=hvd.Max)) / 2,
    }


step(tf.constant(0.0), communicates=False)


@hvd.elastic.run
def train(state: Any) -> None:
    while state.again < STEPS_OF_TWO:
        own = float(hvd.rank() + 1)
        results = step(tf.constant(own))
        mean = np.mean([rank + 1.0 for rank in range(hvd.size())])
        for name, result in results.items():
            np.testing.assert_allclose(result, mean, rtol=1e-6, err_msg=name)
        if hvd.size() == 1:
            state.alone += 1
            if state.alone == STEPS_ALONE:
                HOSTS.write_text("localhost:1\n127.0.0.1:1\nLOCALHOST:1\n")
            assert state.alone < MOST_STEPS_ALONE, "no rank has joined"
            time.sleep(0.3)
        elif state.alone:
            state.again += 1
        else:
            state.of_two += 1
            if state.of_two == STEPS_OF_TWO and hvd.rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        state.commit()


state = hvd.elastic.TensorFlowState([table, weight, local], of_two=0, alone=0, again=0)
train(state)
print(f"DONE: {state.of_two} steps of two, {state.again} of two again", flush=True)
