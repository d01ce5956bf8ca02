"""The digits of digits.py in a training loop of one's own, with a gradient tape.

python examples/custom_loop.py
horovodrun -np 2 python examples/custom_loop.py
mpirun -np 2 python examples/custom_loop.py
"""

from __future__ import annotations

import argparse

import keras
import tensorflow as tf
from digits import build_model, load_data, require_same_weights

import hvdkit as hvd


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16, help="rows of one rank")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=0.0015,
        help="for one rank; it is multiplied by their number",
    )
    return parser.parse_args()


def accuracy(model: keras.Model, data: hvd.ShardedData) -> float:
    """The part of all rows, on all ranks, that the model gets right."""
    right = rows = 0.0
    for x, y, weights in data:
        real = tf.cast(weights > 0, tf.float32)  # a padding row has weight 0
        hits = tf.cast(tf.argmax(model(x, training=False), axis=1) == y, tf.float32)
        right += tf.reduce_sum(hits * real)
        rows += tf.reduce_sum(real)
    right, rows = hvd.grouped_allreduce([right, rows], op=hvd.Sum)
    return float(right / rows)


def main() -> None:
    args = parse_arguments()
    hvd.init()
    # Each rank draws other weights, and the broadcast makes them equal.
    keras.utils.set_random_seed(args.seed + hvd.rank())

    train_rows, test_rows = load_data()
    train = hvd.shard(train_rows, batch_size=args.batch_size, seed=args.seed)
    test = hvd.shard(test_rows, batch_size=args.batch_size)

    model = build_model()
    loss_fn = keras.losses.SparseCategoricalCrossentropy()
    optimizer = keras.optimizers.Adam(args.learning_rate * hvd.size())
    optimizer.build(model.trainable_variables)
    # After the optimizer was built, or its variables would not be there yet. model.weights
    # leaves out the states of seed generators, which should differ between ranks.
    hvd.broadcast_variables(model.weights, root_rank=0)
    hvd.broadcast_variables(optimizer.variables, root_rank=0)

    @tf.function(reduce_retracing=True)
    def train_step(x: tf.Tensor, y: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            # The weights make the ranks' losses average to the loss over all rows.
            loss = loss_fn(y, model(x, training=True), sample_weight=weights)
        tape = hvd.DistributedGradientTape(tape)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    for epoch in range(args.epochs):
        losses = [train_step(*batch) for batch in train]
        loss = hvd.allreduce(tf.reduce_mean(losses))
        if hvd.rank() == 0:
            print(f"epoch {epoch + 1}: loss {loss:.4f}", flush=True)

    result = accuracy(model, test)
    if hvd.rank() == 0:
        print(f"test accuracy: {result:.4f}", flush=True)
    require_same_weights(model)


if __name__ == "__main__":
    main()
