"""N ranks with batch B train as one process with batch N x B: every optimizer, every option."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import compare_with_one_process, data, mlp

import hvdkit as hvd
from hvdkit.engine.process_sets import process_set_of_ranks

O = keras.optimizers  # noqa: E741


def _same(make: Callable[[], Any], build: Callable[[int], keras.Model] = mlp, **options: Any):
    return compare_with_one_process(
        build, make, lambda: hvd.DistributedOptimizer(make()), **options
    )


@long
def check_sgd() -> None:
    _same(lambda: O.SGD(0.1))


@long
def check_sgd_momentum_nesterov() -> None:
    _same(lambda: O.SGD(0.1, momentum=0.9, nesterov=True))


@long
def check_adam_by_name() -> None:
    compare_with_one_process(mlp, lambda: "adam", lambda: hvd.DistributedOptimizer("adam"))


@long
def check_adam_by_config() -> None:
    config = keras.optimizers.serialize(O.Adam(0.02))
    compare_with_one_process(
        mlp, lambda: O.Adam(0.02), lambda: hvd.DistributedOptimizer(dict(config))
    )


def shipped_optimizers() -> list[type[O.Optimizer]]:
    """The optimizers of Keras that are not made of others."""
    special = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"}
    classes = [
        cls
        for name, cls in vars(keras.optimizers).items()
        if isinstance(cls, type) and issubclass(cls, O.Optimizer) and name not in special
    ]
    assert len(classes) >= 10, classes
    return classes


@long
def check_every_optimizer_that_keras_ships() -> None:
    for cls in shipped_optimizers():
        try:
            _same(lambda cls=cls: cls(learning_rate=0.02), steps=3)
        except AssertionError as error:
            raise AssertionError(f"{cls.__name__}: {error}") from error


@long
def check_multi_optimizer() -> None:
    def make() -> Any:
        kernels, biases = O.Adam(0.02), O.SGD(0.1)
        return O.MultiOptimizer(lambda v: biases if v.name == "bias" else kernels)

    if hasattr(O, "MultiOptimizer"):
        _same(make)


@long
def check_clipnorm() -> None:
    _same(lambda: O.SGD(0.1, clipnorm=0.05))


@long
def check_global_clipnorm() -> None:
    _same(lambda: O.Adam(0.02, global_clipnorm=0.05))


@long
def check_clipvalue() -> None:
    _same(lambda: O.SGD(0.1, clipvalue=0.01))


@long
def check_weight_decay() -> None:
    _same(lambda: O.AdamW(0.02, weight_decay=0.1))


@long
def check_ema() -> None:
    _same(lambda: O.Adam(0.02, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2))


@long
def check_learning_rate_schedule() -> None:
    _same(lambda: O.SGD(O.schedules.CosineDecay(0.2, 10)))


@long
def check_constraint() -> None:
    _same(
        lambda: O.SGD(0.5),
        lambda seed: mlp(seed, kernel_constraint=keras.constraints.MaxNorm(0.5)),
    )


@long
def check_regularizer() -> None:
    _same(lambda: O.SGD(0.1), lambda seed: mlp(seed, kernel_regularizer="l2"))


@long
def check_variables_without_gradients() -> None:
    class Idle(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.idle = self.add_weight(shape=(3,), name="idle")

        def call(self, x: Any) -> Any:
            return x

    def build(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [keras.layers.Input((6,)), keras.layers.Dense(4), Idle(), keras.layers.Dense(2)]
        )

    _same(lambda: O.Adam(0.02), build)


def _embedding_model(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.layers.Input((6,), dtype="int32"),
            keras.layers.Embedding(12, 3),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2),
        ]
    )


def _tokens(steps: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    _, y = data(hvd.size() * 4 * steps)
    return rng.integers(0, 12, size=(len(y), 6)).astype("int32"), y


@long
def check_sparse_gradients_linear_optimizer() -> None:
    # SGD is linear in the gradient, so Keras alone is right about repeated rows, too.
    _same(lambda: O.SGD(0.5), _embedding_model, rows=_tokens())


class DenseAdam(O.Adam):
    """Adam on dense gradients, to compare sparse ones with."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        import tensorflow as tf

        super().apply([tf.convert_to_tensor(g) for g in grads], trainable_variables)


@long
def check_sparse_gradients_adam() -> None:
    compare_with_one_process(
        _embedding_model,
        lambda: DenseAdam(0.02, global_clipnorm=0.1),
        lambda: hvd.DistributedOptimizer(O.Adam(0.02, global_clipnorm=0.1)),
        rows=_tokens(),
    )


@long
def check_sparse_as_dense() -> None:
    compare_with_one_process(
        _embedding_model,
        lambda: DenseAdam(0.02),
        lambda: hvd.DistributedOptimizer(O.Adam(0.02), sparse_as_dense=True),
        rows=_tokens(),
    )


@long
def check_gradient_accumulation_of_keras() -> None:
    _same(lambda: O.Adam(0.02, gradient_accumulation_steps=2, global_clipnorm=0.1), steps=6)


@long
def check_backward_passes_averaged() -> None:
    compare_with_one_process(
        mlp,
        lambda: O.Adam(0.02, gradient_accumulation_steps=2),
        lambda: hvd.DistributedOptimizer(
            O.Adam(0.02), backward_passes_per_step=2, average_aggregated_gradients=True
        ),
        steps=6,
    )


@long
def check_backward_passes_summed() -> None:
    compare_with_one_process(
        mlp,
        lambda: O.SGD(0.2, gradient_accumulation_steps=2),
        lambda: hvd.DistributedOptimizer(O.SGD(0.1), backward_passes_per_step=2),
        steps=6,
    )


@long
def check_op_sum() -> None:
    size = hvd.size()
    compare_with_one_process(
        mlp,
        lambda: O.SGD(0.05 * size),
        lambda: hvd.DistributedOptimizer(O.SGD(0.05), op=hvd.Sum),
    )


@long
def check_predivide_factor() -> None:
    compare_with_one_process(
        mlp,
        lambda: O.SGD(0.1),
        lambda: hvd.DistributedOptimizer(O.SGD(0.1), gradient_predivide_factor=2.0),
    )


@long
def check_groups_by_number() -> None:
    for groups in (1, 2, 100):
        compare_with_one_process(
            mlp,
            lambda: O.SGD(0.1),
            lambda groups=groups: hvd.DistributedOptimizer(O.SGD(0.1), groups=groups),
        )


@long
def check_groups_of_variables() -> None:
    found: list[keras.Model] = []

    def build(seed: int) -> keras.Model:
        found.append(mlp(seed))
        return found[-1]

    def distributed() -> Any:
        variables = found[-1].trainable_variables
        return hvd.DistributedOptimizer(O.SGD(0.1), groups=[variables[:2], [variables[3].value]])

    compare_with_one_process(build, lambda: O.SGD(0.1), distributed)


@long
def check_compression_fp16() -> None:
    compare_with_one_process(
        mlp,
        lambda: O.SGD(0.1),
        lambda: hvd.DistributedOptimizer(O.SGD(0.1), compression=hvd.Compression.fp16),
        rtol=5e-3,
        atol=2e-3,
    )


@long
def check_compression_bf16() -> None:
    compare_with_one_process(
        mlp,
        lambda: O.SGD(0.1),
        lambda: hvd.DistributedOptimizer(O.SGD(0.1), compression=hvd.Compression.bf16),
        rtol=3e-2,
        atol=1e-2,
    )


class Halved:
    """A compressor of one's own, as an object."""

    def compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, tf.DType]:
        return tf.cast(tensor, tf.float16), tensor.dtype

    def decompress(self, tensor: tf.Tensor, ctx: tf.DType) -> tf.Tensor:
        return tf.cast(tensor, ctx)


@long
def check_compressors_of_horovod_and_of_ones_own() -> None:
    from horovod.tensorflow.compression import Compression, Compressor

    class Scaled(Compressor):
        @staticmethod
        def compress(tensor: tf.Tensor) -> tuple[tf.Tensor, None]:
            return 2.0 * tensor, None

        @staticmethod
        def decompress(tensor: tf.Tensor, ctx: None) -> tf.Tensor:
            return tensor / 2.0

    own = tf.constant([hvd.rank() + 1.0])
    mean = np.mean([r + 1.0 for r in range(hvd.size())])
    for compression in (Compression.fp16, Compression.none, Scaled, Halved()):
        np.testing.assert_allclose(hvd.allreduce(own, compression=compression), [mean])
        with tf.GradientTape() as tape:
            variable = tf.Variable([1.0])
            loss = variable * own
        tape = hvd.DistributedGradientTape(tape, compression=compression)
        np.testing.assert_allclose(tape.gradient(loss, variable), [mean])
        compare_with_one_process(
            mlp,
            lambda: O.SGD(0.1),
            lambda c=compression: hvd.DistributedOptimizer(O.SGD(0.1), compression=c),
            rtol=5e-3,
            atol=2e-3,
        )


@long
def check_what_is_made_from_a_distributed_optimizer_is_plain() -> None:
    """From its class, its config, a copy, a pickle, a saved model: it can be used, and wrapped."""
    kinds = [lambda: O.SGD(0.1, momentum=0.9), lambda: O.LossScaleOptimizer(O.Adam(0.01))]
    for kind in kinds:
        wrapped = hvd.DistributedOptimizer(kind())
        model = mlp(0)
        model.compile(wrapped, "mse")
        clone = keras.models.clone_model(model)
        clone.compile_from_config(model.get_compile_config())
        assert type(clone.optimizer) is type(kind())
        arguments = () if isinstance(wrapped, O.SGD) else (O.Adam(0.01),)
        for fresh in (
            type(wrapped).from_config(wrapped.get_config()),
            type(wrapped)(*arguments),
            keras.optimizers.deserialize(keras.optimizers.serialize(wrapped)),
            copy.copy(wrapped),
            copy.deepcopy(wrapped),
            pickle.loads(pickle.dumps(wrapped)),
        ):
            assert type(fresh) is type(kind()), type(fresh).__mro__
            again = hvd.DistributedOptimizer(type(fresh).from_config(fresh.get_config()))
            for optimizer, same in ((fresh, False), (again, True)):
                weight = keras.Variable([1.0, 2.0])
                optimizer.build([weight])
                optimizer.apply(
                    [tf.constant([1.0, -1.0]) * (-1.0) ** hvd.rank() * (hvd.rank() + 1)]
                )
                steps = hvd.allgather(weight.value[tf.newaxis]).numpy()
                assert not np.allclose(steps, [1.0, 2.0]), type(optimizer)
                assert np.allclose(steps, steps[0]) == same, (type(optimizer), steps)
        _same(lambda w=wrapped: type(w).from_config(w.get_config()))


@long
def check_mixed_bfloat16() -> None:
    _same(lambda: O.SGD(0.1), lambda seed: mlp(seed, dtype="mixed_bfloat16"), rtol=5e-2, atol=2e-2)


@long
def check_run_eagerly() -> None:
    _same(lambda: O.Adam(0.02), compile_options={"run_eagerly": True})


@long
def check_steps_per_execution() -> None:
    _same(lambda: O.Adam(0.02), compile_options={"steps_per_execution": 2})


@long
def check_xla() -> None:
    _same(lambda: O.Adam(0.02), compile_options={"jit_compile": True})


@long
def check_xla_with_clipping_and_accumulation() -> None:
    _same(
        lambda: O.Adam(0.02, global_clipnorm=0.05, gradient_accumulation_steps=2),
        compile_options={"jit_compile": True},
    )


@long
def check_process_set_of_one_rank_each() -> None:
    if hvd.size() == 1:
        return
    # An earlier check's mesh may have made them already.
    mine = [process_set_of_ranks([r]) for r in range(hvd.size())][hvd.rank()]
    x, y = data(8, seed=hvd.rank())
    models = []
    alone = hvd.callbacks.ConsistencyCheck(at_start=False)
    for wrap in (lambda o: o, lambda o: hvd.DistributedOptimizer(o, process_set=mine)):
        model = mlp(7)
        model.compile(optimizer=wrap(O.SGD(0.1)), loss="mse")
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False, callbacks=[alone])
        models.append(model)
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
