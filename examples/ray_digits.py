"""Train a small CNN on handwritten digits with Ray: a Ray Dataset, and two ranks that Ray places.

    python examples/ray_digits.py
    python examples/ray_digits.py --min-workers 1      # ranks that die are replaced

On a cluster: ray job submit -- python examples/ray_digits.py --workers 8

The data are scikit-learn's digits: 1797 real images of 8 x 8 pixels, which come with the package.
"""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

import hvdkit as hvd

TEST_ROWS = 360


def train(epochs: int, batch_size: int) -> float:
    """What each rank does; the accuracy on the test rows."""
    import keras

    hvd.init()
    hvd.set_random_seed(1)
    model = keras.Sequential(
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
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.0015 * hvd.size()))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    state = hvd.elastic.KerasState(model, epoch=0)

    @hvd.elastic.run  # in a job that is not elastic it runs once
    def fit(state: hvd.elastic.KerasState) -> float:
        rows = hvd.ray.get_shard("train", x="image", y="label", batch_size=batch_size)
        test = hvd.ray.get_shard("test", x="image", y="label", batch_size=batch_size)
        callbacks = [
            hvd.callbacks.BroadcastGlobalVariablesCallback(0),
            hvd.elastic.UpdateEpochStateCallback(state),
            hvd.elastic.CommitStateCallback(state, batches_per_commit=10),
        ]
        model.fit(
            rows,
            initial_epoch=state.epoch,
            epochs=epochs,
            callbacks=callbacks,
            verbose=2 if hvd.rank() == 0 else 0,
        )
        return float(model.evaluate(test, return_dict=True, verbose=0)["accuracy"])

    return fit(state)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16, help="rows of one rank")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--min-workers", type=int, help="go on with so many when workers die")
    args = parser.parse_args()
    try:
        import ray
        from sklearn.datasets import load_digits
    except ImportError as error:
        sys.exit(f"this example needs more packages ({error}): pip install 'hvdkit[ray,examples]'")

    if "RAY_ADDRESS" not in os.environ:  # no cluster: a Ray of its own, on this machine
        ray.init(num_cpus=max(args.workers, os.cpu_count() or 1), include_dashboard=False)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, :, :, None] / 16).astype("float32")
    rows = ray.data.from_items(
        [{"image": images[i], "label": int(digits.target[order[i]])} for i in range(len(order))]
    )
    test, training = rows.split_at_indices([TEST_ROWS])
    accuracy = hvd.ray.run(
        train,
        args=(args.epochs, args.batch_size),
        num_workers=args.workers,
        min_workers=args.min_workers,
        datasets={"train": training, "test": test},
    )
    print(f"test accuracy: {accuracy:.4f}", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
