"""One rank of `hvdkit plan measure`: speed of products, single elements, memory and all-reduces.

All ranks do each at the same time, as in a training: those of one host share its cores and its
memory. Rank 0 prints what it is doing, and in the end one line of JSON.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

MARK = "HVDKIT-PLAN "
KIB = 2**10
_PRODUCT_SIDES = (128, 256, 512, 1024, 2048, 4096, 8192)
_PRODUCT_OPERATIONS = 2**31  # of a call at least
_LONG_SECONDS = 0.1  # after a size that takes as long no larger one is tried
_MEMORY_BYTES = 2**28
_TOKENS, _WIDTH = 4096, 1024  # of what operations on single elements are measured with
_CHAIN = 200  # operations one after the other
_ROUND_SECONDS = 0.05  # a round repeats what is shorter


class Together:
    """Measures calls that all ranks make at the same time."""

    def __init__(self, hvd: Any, rounds: int) -> None:
        self._hvd, self._rounds = hvd, rounds

    def seconds(self, call: Callable[[], object]) -> float:
        """The median over rounds of the seconds of a call."""
        call()  # traced here
        begin = time.perf_counter()
        call()
        # A call may be a collective: all ranks make as many.
        once = self.slowest(time.perf_counter() - begin)
        repeats = max(1, min(100, round(_ROUND_SECONDS / once)))
        found: list[float] = []
        for _ in range(self._rounds):
            self._hvd.barrier()
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            found.append((time.perf_counter() - begin) / repeats)
        return statistics.median(found)

    def slowest(self, seconds: float) -> float:
        """The most of all ranks: what they decide by, so that all decide alike."""
        return float(max(self._hvd.allgather_object(seconds)))


def main(largest: float, rounds: int) -> None:
    """Measure; sizes in MiB."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import hvdkit as hvd

    hvd.init()
    import tensorflow as tf

    from hvdkit.planner.memory_limit import rank_memory_limit

    together = Together(hvd, rounds)
    mine = {
        "host": socket.gethostname(),
        "rates": {bits: _rates(tf, together, dtype) for bits, dtype in _dtypes(tf).items()},
        "bandwidth": _bandwidth(tf, together),
        "elements": _elements(tf, together),
        "operation": _operation(tf, together),
        "memory": rank_memory_limit(hvd.local_size()),
        "device": _device_name(tf),
        "local_size": hvd.local_size(),
    }
    table = {}
    size = 4 * KIB
    while size <= largest * 2**20:
        table[size] = together.seconds(_reduction(tf, hvd, size))
        size *= 4
    found = {"hidden": _hidden(tf, hvd, together, table), "table": table}
    every = hvd.allgather_object(mine)
    networks = hvd.allgather_object(found)
    if hvd.rank() == 0:
        times = {str(s): max(each["table"][s] for each in networks) for s in table}
        hidden = min(each["hidden"] for each in networks)
        result = {"ranks": every, "all_reduce": times, "hidden": hidden}
        sys.stdout.write(f"{MARK}{json.dumps(result)}\n")
        sys.stdout.flush()


def _reduction(tf: Any, hvd: Any, size: int) -> Callable[[], object]:
    reduce, tensor = tf.function(hvd.allreduce), tf.ones([size // 4])
    return lambda: reduce(tensor).numpy()


def _dtypes(tf: Any) -> dict[str, object]:
    """16 bits only where the device computes with them; CPUs widen them first."""
    found = {"32-bit": tf.float32}
    if tf.config.list_logical_devices("GPU"):
        found["16-bit"] = tf.bfloat16
    return found


def _rates(tf: Any, together: Together, dtype: object) -> dict[str, float]:
    """FLOP/s of square products, each with the two of its gradient, by their side."""

    def products(first: Any, second: Any) -> Any:
        found = []
        for a, b in zip(tf.unstack(first), tf.unstack(second), strict=True):
            c = tf.matmul(a, b)
            of_a, of_b = tf.matmul(c, b, transpose_b=True), tf.matmul(a, c, transpose_a=True)
            found += [of_a[0, 0], of_b[0, 0]]
        return tf.stack(found)

    rates = {}
    for side in _PRODUCT_SIDES:
        operations = 3 * 2 * side**3
        count = -(-_PRODUCT_OPERATIONS // operations)
        a, b = (tf.cast(tf.random.normal([count, side, side]), dtype) for _ in range(2))
        run = tf.function(products, autograph=False)
        seconds = together.seconds(partial(_computed, run, a, b))
        rates[str(side)] = count * operations / seconds
        if count == 1 and together.slowest(seconds) > _LONG_SECONDS:
            break
    return rates


def _bandwidth(tf: Any, together: Together) -> float:
    """Bytes a second of an addition: two operands are read, one is written."""
    values = tf.random.normal([_MEMORY_BYTES // 4])
    variable = tf.Variable(values)
    add = tf.function(lambda: variable.assign_add(values).shape[0])
    return 3.0 * _MEMORY_BYTES / together.seconds(lambda: add())


def _elements(tf: Any, together: Together) -> float:
    """Bytes a second of operations on single elements: those of a normalization and a GELU.

    What each operation reads and writes is counted, as the planner counts it.
    """
    import keras

    normalize = keras.layers.LayerNormalization()
    normalize.build((_TOKENS, _WIDTH))
    x = tf.random.normal([_TOKENS, _WIDTH])

    def passes(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = keras.activations.gelu(normalize(x), approximate=False)
        return tape.gradient(y, x)

    traced = tf.function(passes, autograph=False).get_concrete_function(x)
    moved = sum(
        tensor.shape.num_elements() * tensor.dtype.size
        for operation in _needed(traced.graph.outputs)
        for tensor in (*operation.inputs, *operation.outputs)
        if operation.type not in ("Reshape", "Identity") and tensor.shape.num_elements()
    )
    return float(moved / together.seconds(lambda: traced(x).numpy()))


def _needed(outputs: Any) -> list[Any]:
    """The operations of a graph that what it returns needs."""
    found: dict[str, Any] = {}
    left = [tensor.op for tensor in outputs]
    while left:
        operation = left.pop()
        if operation.name not in found:
            found[operation.name] = operation
            left += [tensor.op for tensor in operation.inputs]
    return list(found.values())


def _operation(tf: Any, together: Together) -> float:
    """Seconds of an operation that has next to nothing to compute."""

    def chain(x: Any) -> Any:
        for _ in range(_CHAIN):
            x = tf.sin(x)  # which nothing simplifies
        return x

    run, x = tf.function(chain, autograph=False), tf.ones([1])
    return together.seconds(lambda: run(x).numpy()) / _CHAIN


def _hidden(tf: Any, hvd: Any, together: Together, table: dict[int, float]) -> float:
    """The part of an all-reduce that takes no time beside products of matrices."""
    size = max(s for s in table if s <= 2**22)
    tensor, matrix = tf.ones([size // 4]), tf.random.normal([256, 256])

    def products(count: Any) -> Any:
        return tf.while_loop(
            lambda i, x: i < count, lambda i, x: (i + 1, tf.matmul(x, matrix)), (0, matrix)
        )[1][0, 0]

    alone = tf.function(products, autograph=False)
    both = tf.function(lambda n: (products(n), hvd.allreduce(tensor)[0]), autograph=False)
    one = together.seconds(lambda: alone(tf.constant(20)).numpy()) / 20
    every = hvd.allgather_object(max(1, round(table[size] / one)))
    count = tf.constant(max(every))  # products that take as long as the all-reduce
    computed = together.seconds(lambda: alone(count).numpy())
    beside = together.seconds(lambda: [each.numpy() for each in both(count)])
    return min(1.0, max(0.0, 1 - (beside - computed) / table[size]))


def _computed(function: Any, *arguments: Any) -> Any:
    return function(*arguments).numpy()


def _device_name(tf: Any) -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return str(details.get("device_name", "GPU"))
    return "CPU share"


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
