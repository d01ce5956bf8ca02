"""Train a small CNN on handwritten digits with ranks that may die and others that may join.

    horovodrun --gloo -np 2 --min-np 1 --max-np 4 \
        --host-discovery-script mpi/discover-hosts.sh python examples/elastic_digits.py
    python examples/elastic_digits.py              # the same training, one process

Kill one of the two Python processes while it trains (kill -9 PID): the other goes on. For more
ranks, give the script a file of hosts, and edit it: see mpi/discover-hosts.sh.
"""

from __future__ import annotations

import argparse
import sys

import keras
import numpy as np

import hvdkit as hvd

Rows = tuple[np.ndarray, np.ndarray]
TEST_ROWS = 360


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


def build_model(learning_rate: float) -> keras.Model:
    """A small CNN, compiled; its state can be kept only once it has an Input."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=hvd.DistributedOptimizer(keras.optimizers.Adam(learning_rate)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class SayPosition(keras.callbacks.Callback):
    """Print on rank 0 where a training starts or goes on."""

    def __init__(self, state: hvd.elastic.KerasState) -> None:
        super().__init__()
        self.state = state

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Print it."""
        if hvd.rank() == 0:
            print(
                f"training from epoch {self.state.epoch + 1}, batch {self.state.batch + 1}, "
                f"with {hvd.size()} ranks",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16, help="rows of one rank")
    parser.add_argument("--learning-rate", type=float, default=0.0015, help="for one rank")
    parser.add_argument("--batches-per-commit", type=int, default=5)
    args = parser.parse_args()

    hvd.init()
    # No collectives out here: a rank that joins later would call them alone.
    model = build_model(args.learning_rate * hvd.size())
    state = hvd.elastic.KerasState(model, epoch=0, batch=0)

    def scale_learning_rate() -> None:
        model.optimizer.learning_rate = args.learning_rate * hvd.size()

    state.register_reset_callbacks([scale_learning_rate])
    train_rows, test_rows = load_data()

    @hvd.elastic.run
    def train(state: hvd.elastic.KerasState) -> float:
        """Called at the start, and again whenever the ranks have changed."""
        train = hvd.shard(train_rows, batch_size=args.batch_size, seed=1)
        test = hvd.shard(test_rows, batch_size=args.batch_size)
        callbacks = [
            hvd.elastic.CommitStateCallback(state, args.batches_per_commit),
            hvd.elastic.UpdateBatchStateCallback(state),
            hvd.elastic.UpdateEpochStateCallback(state),
            SayPosition(state),
        ]
        model.fit(
            train,
            initial_epoch=state.epoch,
            epochs=args.epochs,
            validation_data=test,
            callbacks=callbacks,
            verbose=2 if hvd.rank() == 0 else 0,
        )
        return float(model.evaluate(test, return_dict=True, verbose=0)["accuracy"])

    accuracy = train(state)
    if hvd.rank() == 0:
        print(f"test accuracy: {accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
