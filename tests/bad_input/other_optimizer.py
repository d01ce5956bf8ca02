"""An optimizer that is not one of Keras 3."""

import sys

import tensorflow as tf

import hvdkit as hvd

hvd.init()
# What Keras 2's package looks like where it is installed.
Keras2Adam = type("Adam", (), {"__module__": "tf_keras.src.optimizers.adam"})
optimizers = {
    "keras2": Keras2Adam,
    "subclass_of_keras2": type("Mine", (Keras2Adam,), {"__module__": "my_script"}),
    "tensorflow1": lambda: tf.compat.v1.train.GradientDescentOptimizer(0.1),
    "none": lambda: None,
    "unknown_name": lambda: "adamm",
}
*before, last = sys.argv[1].split(",")
for name in before:
    try:
        hvd.DistributedOptimizer(optimizers[name]())
    except (TypeError, ValueError) as error:
        print(f"refused {name}: {error}", flush=True)
    else:
        raise SystemExit(f"{name} was not refused")
hvd.DistributedOptimizer(optimizers[last]())
