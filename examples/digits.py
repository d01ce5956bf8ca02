"""Train a small CNN on handwritten digits, on one process, several devices, or several ranks.

    python examples/digits.py
    horovodrun -np 2 python examples/digits.py
    mpirun -np 2 python examples/digits.py
    python examples/digits.py --cpu-devices 2      # MirroredStrategy on two logical CPUs

The data are scikit-learn's digits: 1797 real images of 8 x 8 pixels, which come with the package.
"""

from __future__ import annotations

import argparse
import hashlib
import sys

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

Rows = tuple[np.ndarray, np.ndarray]
TEST_ROWS = 360
WARMUP_EPOCHS = 3


def load_data() -> tuple[Rows, Rows]:
    """The digits, the same split on every rank.

    Returns:
        (images, labels) to train on and to test on; images float32 (rows, 8, 8, 1) in 0..1.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("this example needs scikit-learn: pip install scikit-learn")
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, :, :, None] / 16).astype("float32")
    labels = digits.target[order]
    return (images[TEST_ROWS:], labels[TEST_ROWS:]), (images[:TEST_ROWS], labels[:TEST_ROWS])


def build_model() -> keras.Model:
    """A small CNN."""
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def require_same_weights(model: keras.Model) -> None:
    """Print on rank 0 that all ranks hold the same weights, to the bit, or end with status 1."""
    own = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()[:16]
    digests = hvd.allgather_object(own)
    if len(set(digests)) > 1:
        sys.exit(f"rank {hvd.rank()}: the ranks hold different weights: {', '.join(digests)}")
    if hvd.rank() == 0:
        print(f"weights: the same on all {hvd.size()} ranks, SHA-256 {own}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16, help="rows of one rank or device")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=0.0015,
        help="for one rank or device; it is multiplied by their number, after a warm-up",
    )
    parser.add_argument(
        "--strategy", choices=("auto", "ranks", "mirrored", "single"), default="auto"
    )
    parser.add_argument(
        "--cpu-devices", type=int, default=1, metavar="K", help="split the CPU into K devices"
    )
    parser.add_argument("--save", metavar="FILE", help="keep the best model here (.keras)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.cpu_devices > 1:  # devices have to be split before TensorFlow starts
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * args.cpu_devices,
        )
    hvd.init()
    # Each rank draws other weights, and the broadcast makes them equal.
    keras.utils.set_random_seed(args.seed + hvd.rank())

    strategy = hvd.strategy(args.strategy)
    # N batches are averaged in each step, so the step may be N times as long.
    learning_rate = args.learning_rate * hvd.size() * strategy.num_replicas_in_sync
    with strategy.scope():
        model = build_model()
        model.compile(
            optimizer=hvd.DistributedOptimizer(keras.optimizers.Adam(learning_rate)),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )

    train_rows, test_rows = load_data()
    train = hvd.shard(train_rows, batch_size=args.batch_size, seed=args.seed)
    test = hvd.shard(test_rows, batch_size=args.batch_size)
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
        hvd.callbacks.LearningRateWarmupCallback(learning_rate, warmup_epochs=WARMUP_EPOCHS),
    ]
    if args.save:  # writes on rank 0 only
        callbacks.append(
            hvd.callbacks.ModelCheckpoint(args.save, monitor="val_accuracy", save_best_only=True)
        )
    model.fit(
        train,
        epochs=args.epochs,
        validation_data=test,
        callbacks=callbacks,
        verbose=2 if hvd.rank() == 0 else 0,
    )

    results = model.evaluate(test, return_dict=True, verbose=0)
    if hvd.rank() == 0:
        print(f"test accuracy: {results['accuracy']:.4f}", flush=True)
    require_same_weights(model)


if __name__ == "__main__":
    main()
