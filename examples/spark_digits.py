"""Train a small network on handwritten digits with Spark: a DataFrame, and two ranks of a stage.

    python examples/spark_digits.py
    spark-submit --master spark://host:7077 examples/spark_digits.py --ranks 8

The data are scikit-learn's digits: 1797 real images of 8 x 8 pixels, which come with the package.
"""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

import hvdkit as hvd

TEST_ROWS = 360


def train(epochs: int, batch_size: int) -> list[np.ndarray]:
    """What each rank does; the weights, which are the same on all of them."""
    import keras

    hvd.init()
    hvd.set_random_seed(1)
    model = build_model()
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.0015 * hvd.size()))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    rows = hvd.spark.get_shard(x="pixels", y="label", batch_size=batch_size)
    model.fit(
        rows,
        epochs=epochs,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
        verbose=2 if hvd.rank() == 0 else 0,
    )
    return model.get_weights()


def build_model():  # noqa: ANN201  (a keras.Model, which the driver loads at the end)
    import keras

    return keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16, help="rows of one rank")
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    try:
        from pyspark.sql import SparkSession
        from sklearn.datasets import load_digits
    except ImportError as error:
        sys.exit(
            f"this example needs more packages ({error}): pip install 'hvdkit[spark,examples]'"
        )

    builder = SparkSession.builder.appName("digits").config("spark.ui.enabled", "false")
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # without spark-submit: on this machine
        builder = builder.master(f"local[{args.ranks}]")
    spark = builder.getOrCreate()
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    pixels, labels = digits.data[order] / 16, digits.target[order]
    df = spark.createDataFrame(
        [(pixels[i].tolist(), int(labels[i])) for i in range(TEST_ROWS, len(labels))],
        "pixels array<float>, label int",
    )
    weights = hvd.spark.run(
        train, args=(args.epochs, args.batch_size), num_proc=args.ranks, df=df, spark=spark
    )
    spark.stop()

    model = build_model()
    model.set_weights(weights)
    predicted = model.predict(pixels[:TEST_ROWS], verbose=0).argmax(axis=1)
    print(f"test accuracy: {(predicted == labels[:TEST_ROWS]).mean():.4f}", flush=True)


if __name__ == "__main__":
    main()
