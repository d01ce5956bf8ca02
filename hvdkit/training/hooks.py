"""What hvdkit adds to Keras's `fit`, `evaluate` and `predict`.

This is the only place where hvdkit changes Keras, and it changes nothing for a process that
trains alone with plain data:

- `fit`, `evaluate` and `predict` take what `hvd.shard` returns, and give results of all ranks;
- progress bars (`verbose="auto"`) are drawn by rank 0 only;
- a model that is not built yet is built before callbacks are called, so that its variables can
  be broadcast before the first step;
- where the model is compiled by XLA, the reduction stays outside;
- `LossScaleOptimizer` asks all ranks whether the gradients are finite.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from hvdkit.data.sharded import ShardedAdapter, ShardedData
from hvdkit.engine import (
    Min,
    explained_in_graph,
    is_initialized,
    logger,
    ops,
    topology,
)
from hvdkit.layers.sync_batch_normalization import SyncBatchNormalization
from hvdkit.metrics import average_over_ranks, metrics_over_ranks
from hvdkit.optimizers.batch_scale import current_scale
from hvdkit.optimizers.distributed import Distributed, is_distributed, leaves, reductions
from hvdkit.training.build import build_from_data
from hvdkit.training.losses import require_exact_loss
from hvdkit.training.prediction import predict_over_ranks
from hvdkit.training.steps import split_at_optimizer, with_sharded_batches

_MARK = "_hvdkit_original"


def install() -> None:
    """Put the hooks in place; once, when hvdkit is imported."""
    _wrap(TensorFlowTrainer, "fit", _fit)
    _wrap(TensorFlowTrainer, "evaluate", _evaluate)
    _wrap(TensorFlowTrainer, "predict", _predict)
    _wrap(TensorFlowTrainer, "_make_function", _make_function)
    _wrap(TensorFlowTrainer, "_get_metrics_result_or_logs", _metrics_result)
    _wrap(keras.optimizers.LossScaleOptimizer, "check_finite", _check_finite)
    _wrap(keras.optimizers.LossScaleOptimizer, "scale_loss", _scale_loss)


def _wrap(cls: type, name: str, hook: Callable[..., Any]) -> None:
    original = getattr(cls, name)
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return hook(original, self, *args, **kwargs)

    setattr(method, _MARK, original)
    setattr(cls, name, method)


def several_ranks() -> bool:
    """Whether this process is one of several ranks."""
    return is_initialized() and topology.size() > 1


def _arguments(original: Callable[..., Any], model: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(original).bind(model, *args, **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    arguments.pop("self")
    arguments.update(arguments.pop("kwargs", {}))
    if arguments["verbose"] == "auto" and several_ranks() and topology.rank() != 0:
        arguments["verbose"] = 0
    return arguments


def _fit(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    arguments = _arguments(original, model, args, kwargs)
    data, validation = arguments["x"], arguments["validation_data"]
    sharded = isinstance(data, ShardedData)
    if several_ranks():
        build_from_data(model, data)
    if sharded:
        _refuse(arguments, "fit", "y", "sample_weight", "batch_size")
        require_exact_loss(model, data)
        _follow_epochs(data, arguments)
        arguments["x"] = _adapter(model, data, class_weight=arguments.pop("class_weight"))
        arguments["shuffle"] = False
    if isinstance(validation, ShardedData):
        arguments["validation_data"] = _adapter(model, validation, in_order=True)
    what = "a training step of fit"
    with _reading(model, sharded), explained_in_graph(what, lambda: _training_step(model)):
        return original(model, **arguments)


def _training_step(model: Any) -> str:
    optimizer = model.optimizer
    if optimizer is None or not optimizer.built:
        return "fit"
    # A step counts itself when it starts: that waits for no gradient.
    return f"training step {max(1, int(optimizer.iterations.numpy()))} of fit"


class _FollowEpochs(keras.callbacks.Callback):
    """Tell sharded data which epoch starts; Keras may have read a batch before the first."""

    def __init__(self, data: ShardedData, ahead: int) -> None:
        super().__init__()
        self._data = data
        self._ahead = ahead

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._data.set_epoch(epoch + self._ahead)


def _follow_epochs(data: ShardedData, arguments: dict[str, Any]) -> None:
    """A second `fit` goes on with the next epoch's order; `initial_epoch` names it."""
    follow = _FollowEpochs(data, ahead=0 if arguments["initial_epoch"] else data.epoch)
    callbacks = arguments["callbacks"]
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.append(follow)
    else:
        arguments["callbacks"] = [*keras.tree.flatten(callbacks or []), follow]


def _evaluate(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    arguments = _arguments(original, model, args, kwargs)
    data = arguments["x"]
    if isinstance(data, ShardedData):
        _refuse(arguments, "evaluate", "y", "sample_weight", "batch_size")
        arguments["x"] = _adapter(model, data, in_order=True)
    sharded = isinstance(arguments["x"], ShardedAdapter)
    with _reading(model, sharded), explained_in_graph("a step of evaluate"):
        return original(model, **arguments)


def _predict(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    arguments = _arguments(original, model, args, kwargs)
    data = arguments["x"]
    if not isinstance(data, ShardedData):
        return original(model, **arguments)
    _refuse(arguments, "predict", "batch_size")
    adapter = _adapter(model, data, in_order=True, only_real=True)
    outputs = original(model, **{**arguments, "x": adapter})
    return predict_over_ranks(outputs, adapter) if adapter.part.size > 1 else outputs


def _adapter(model: Any, data: ShardedData, **options: Any) -> ShardedAdapter:
    devices = model.distribute_strategy.num_replicas_in_sync
    return ShardedAdapter(data, local_devices=devices, **options)


def _refuse(arguments: dict[str, Any], method: str, *names: str) -> None:
    for name in names:
        if arguments.get(name) is not None:
            raise ValueError(
                f"{method}({name}=...) does not go with data from hvd.shard: "
                f"give {name} to hvd.shard."
            )


@contextlib.contextmanager
def _reading(model: Any, sharded: bool) -> Iterator[None]:
    """While inside, the model's metrics are those of sharded data, or not."""
    before = vars(model).get("_hvdkit_reads_sharded", False)
    vars(model)["_hvdkit_reads_sharded"] = sharded
    try:
        yield
    finally:
        vars(model)["_hvdkit_reads_sharded"] = before


def _metrics_result(original: Callable[..., Any], model: Any, logs: Any) -> Any:
    if not several_ranks() or not vars(model).get("_hvdkit_reads_sharded"):
        return original(model, logs)
    results = metrics_over_ranks(model)
    if isinstance(logs, dict) and set(logs) == set(results):
        return results
    return average_over_ranks(model, logs) if isinstance(logs, dict) else logs


def _check_finite(original: Callable[..., Any], optimizer: Any, grads: Any) -> tf.Tensor:
    finite = original(optimizer, grads)
    active = [r for r in reductions(optimizer) if r.active]
    if not active:
        return finite
    process_set = active[0].options.process_set
    everywhere = ops.allreduce(
        tf.cast(finite, tf.int32), Min, name="hvdkit_finite", process_set=process_set
    )
    return tf.cast(everywhere, tf.bool)


def _scale_loss(original: Callable[..., Any], optimizer: Any, loss: tf.Tensor) -> tf.Tensor:
    loss = original(optimizer, loss)
    scale = current_scale()
    if scale is None or isinstance(optimizer, Distributed) or not is_distributed(optimizer):
        return loss
    return scale.scaled(loss, leaves(optimizer))


def _make_function(original: Callable[..., Any], model: Any, step_function: Any) -> Any:
    trains = step_function == model.train_step
    step = with_sharded_batches(model, step_function)
    if not model.jit_compile or not several_ranks():
        return original(model, step)
    synchronizes = _has_sync_batch_normalization(model) and trains
    if not (trains and is_distributed(model.optimizer)) and not synchronizes:
        return original(model, step)
    if synchronizes:
        _say_once(model, "it has SyncBatchNormalization layers, which talk to other ranks")
    elif type(model).train_step is not TensorFlowTrainer.train_step:
        _say_once(model, "it has a train_step of its own, which hvdkit can't divide")
    else:
        step = split_at_optimizer(model, step)
    model.jit_compile, compiled = False, model.jit_compile
    try:
        return original(model, step)
    finally:
        model.jit_compile = compiled


def _has_sync_batch_normalization(model: Any) -> bool:
    return any(isinstance(layer, SyncBatchNormalization) for layer in model._flatten_layers())


def _say_once(model: Any, reason: str) -> None:
    if topology.rank() == 0 and not vars(model).get("_hvdkit_said_no_xla"):
        vars(model)["_hvdkit_said_no_xla"] = True
        logger.warning(
            "hvdkit: the training step of %s is not compiled by XLA: %s.", model.name, reason
        )
