"""What hvdkit adds to Keras's `fit`, `evaluate` and `predict`.

This is the only place where hvdkit changes Keras, and it changes nothing for a process that
trains alone with plain data:

- `fit`, `evaluate` and `predict` take what `hvd.shard` returns, and give results of all ranks;
- arrays are read without TensorFlow's autotuning where there are several ranks;
- progress bars (`verbose="auto"`) are drawn by rank 0 only;
- a model that is not built yet is built before callbacks are called, so that its variables can
  be broadcast before the first step;
- where the model is compiled by XLA, the reduction stays outside;
- `LossScaleOptimizer` asks all ranks whether the gradients are finite;
- `fit` can start in the middle of an epoch, where `BackupAndRestore` or an elastic job has stopped;
- `fit` checks that the ranks make equally many steps, and says where they read the same rows;
- `fit` checks once that the ranks hold the same variables, and averages moving statistics at the
  end of an epoch;
- after `hvd.set_random_seed`, seed generators differ between ranks;
- `save` and `save_weights` write the whole of a model that is divided over ranks;
- what Keras writes of a model is there whole or not at all, also where all ranks write to one path;
- Keras's own callbacks write once where all ranks have them, and decide alike;
- optimizers keep and update what belongs to a variable of a split layer on its device.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator

from hvdkit.callbacks.backup_and_restore import BackupAndRestore
from hvdkit.data import autotuning as plain
from hvdkit.data.fit_position import FitPosition, current_position, positioned
from hvdkit.data.sharded import ShardedAdapter, ShardedData
from hvdkit.engine import explained_in_graph, logger, several_ranks, topology
from hvdkit.layers.sync_batch_normalization import SyncBatchNormalization
from hvdkit.metrics import kinds
from hvdkit.metrics.logs import logs_of_pass
from hvdkit.metrics.rows import TEST, TRAINING, end_pass
from hvdkit.optimizers import loss_scaling
from hvdkit.optimizers.composition import is_distributed
from hvdkit.parallel.devices import optimizer_files as optimizer_state
from hvdkit.parallel.devices import optimizer_placement as placement
from hvdkit.parallel.devices import shards as pieces
from hvdkit.parallel.tensor.saving import write_whole_model
from hvdkit.randomness import seed_generator_init
from hvdkit.state import constants
from hvdkit.state.reachable import leading_optimizer
from hvdkit.state.statistics import average_statistics
from hvdkit.training import comparison, whole_files
from hvdkit.training.build import build_from_data
from hvdkit.training.divided import require_distributed
from hvdkit.training.features import add_callback, add_checks, follow_epochs, save_last
from hvdkit.training.layer_batches import require_whole_micro_batches
from hvdkit.training.losses import require_exact_loss
from hvdkit.training.on_several_ranks import agree_on_callbacks
from hvdkit.training.passed_batches import remaining_steps
from hvdkit.training.prediction import predict_over_ranks, rows_being_read
from hvdkit.training.refusals import refuse_beside_sharded, refuse_sharded_inside
from hvdkit.training.steps import split_at_optimizer, with_sharded_batches

_MARK = "_hvdkit_original"


def install() -> None:
    """Put the hooks in place; once, when hvdkit is imported."""
    _wrap(TensorFlowTrainer, "fit", _fit)
    _wrap(TensorFlowTrainer, "evaluate", _evaluate)
    _wrap(TensorFlowTrainer, "predict", _predict)
    _wrap(TensorFlowTrainer, "_make_function", _make_function)
    _wrap(TensorFlowTrainer, "_get_metrics_result_or_logs", _metrics_result)
    _wrap(TFEpochIterator, "_enumerate_iterator", _enumerate_iterator)
    _wrap(keras.Model, "save", write_whole_model)
    _wrap(keras.Model, "save_weights", write_whole_model)
    _wrap(keras.random.SeedGenerator, "__init__", seed_generator_init)
    for module in (
        plain,
        kinds,
        whole_files,
        comparison,
        loss_scaling,
        placement,
        pieces,
        optimizer_state,
        constants,
    ):
        for cls, name, hook in module.HOOKS:
            _wrap(cls, name, hook)


def _wrap(cls: Any, name: str, hook: Callable[..., Any]) -> None:
    original = getattr(cls, name)
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return hook(original, self, *args, **kwargs)

    setattr(method, _MARK, original)
    setattr(cls, name, method)


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
    refuse_sharded_inside(arguments, "fit")
    require_whole_micro_batches(model, data, arguments["batch_size"])
    backup = save_last(arguments)
    if several_ranks() or backup is not None:
        build_from_data(model, data, arguments["y"], arguments["sample_weight"])
    if sharded:
        refuse_beside_sharded(arguments, "fit", "y", "sample_weight", "batch_size")
        require_exact_loss(model, data)
        follow_epochs(data, arguments)
        arguments["x"] = _adapter(model, data, class_weight=arguments.pop("class_weight"))
        arguments["shuffle"] = False
    require_distributed(model)
    agree_on_callbacks(model, arguments, data, validation)
    if isinstance(validation, ShardedData):
        arguments["validation_data"] = _adapter(model, validation, in_order=True)
    compared = comparison.FitComparison(model, arguments)
    position = FitPosition(arguments["x"] if sharded else None, compared)
    add_checks(model, arguments, several_ranks())
    if several_ranks():
        add_callback(arguments, comparison.CountSteps(compared), first=True)
    with (
        _reading(model, sharded, trains=True),
        positioned(position),
        _releasing_signals(backup),
        explained_in_graph("a training step of fit", lambda: _training_step(model)),
    ):
        return original(model, **arguments)


@contextlib.contextmanager
def _releasing_signals(backup: BackupAndRestore | None) -> Iterator[None]:
    """After an error nobody saves, so the signals mean again what they meant before `fit`."""
    try:
        yield
    except Exception:
        if backup is not None:
            backup.release_signals()
        raise


def _training_step(model: Any) -> str:
    optimizer = leading_optimizer(model)
    if optimizer is None or not optimizer.built:
        return "fit"
    # A step counts itself when it starts: that waits for no gradient.
    return f"training step {max(1, int(optimizer.iterations.numpy()))} of fit"


def _evaluate(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    arguments = _arguments(original, model, args, kwargs)
    data = arguments["x"]
    refuse_sharded_inside(arguments, "evaluate")
    if isinstance(data, ShardedData):
        refuse_beside_sharded(arguments, "evaluate", "y", "sample_weight", "batch_size")
        arguments["x"] = _adapter(model, data, in_order=True)
    sharded = isinstance(arguments["x"], ShardedAdapter)
    with (
        _reading(model, sharded),
        positioned(None),
        explained_in_graph("a step of evaluate"),
    ):
        results = original(model, **arguments)
    if sharded:
        arguments["x"].data.compare_first_batch()
    return results


def _predict(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    arguments = _arguments(original, model, args, kwargs)
    data = arguments["x"]
    refuse_sharded_inside(arguments, "predict")
    with positioned(None):
        if not isinstance(data, ShardedData):
            return original(model, **arguments)
        refuse_beside_sharded(arguments, "predict", "batch_size")
        arguments["x"] = adapter = _adapter(model, data, in_order=True)
        return predict_over_ranks(adapter, lambda: original(model, **arguments))


def _adapter(model: Any, data: ShardedData, **options: Any) -> ShardedAdapter:
    devices = model.distribute_strategy.num_replicas_in_sync
    return ShardedAdapter(data, local_devices=devices, **options)


@contextlib.contextmanager
def _reading(model: Any, sharded: bool, trains: bool = False) -> Iterator[None]:
    """While inside, the model's metrics are those of sharded data, or not; it trains, or not."""
    state = vars(model)
    before = state.get("_hvdkit_reads_sharded", False), state.get("_hvdkit_trains", False)
    state["_hvdkit_reads_sharded"], state["_hvdkit_trains"] = sharded, trains
    end_pass(model, TRAINING if trains else TEST)  # what was counted before belongs to no pass
    try:
        yield
    finally:
        state["_hvdkit_reads_sharded"], state["_hvdkit_trains"] = before


def _enumerate_iterator(original: Callable[..., Any], iterator: Any) -> Iterator[Any]:
    steps = remaining_steps(original, iterator)
    fit = current_position()
    position = rows_being_read() or fit
    steps = steps if position is None else position.follow(iterator, steps)
    adapter = iterator.data_adapter
    steps = adapter.counted(steps) if isinstance(adapter, ShardedAdapter) else steps
    return steps if fit is None else fit.comparison.follow(iterator, steps)


def _metrics_result(original: Callable[..., Any], model: Any, logs: Any) -> Any:
    position = current_position()
    if position is not None and position.resumed and not logs:  # no batch was left of the epoch
        logs = model.get_metrics_result()
    if vars(model).get("_hvdkit_trains"):
        if position is not None:
            position.comparison.end_epoch()
        # The steps of an epoch are done: before validation, callbacks, and files they write, and
        # on every rank, whether it validates or not.
        average_statistics(model)
    kind = TRAINING if vars(model).get("_hvdkit_trains") else TEST
    end_pass(model, kind)
    if not several_ranks() or not vars(model).get("_hvdkit_reads_sharded"):
        return original(model, logs)
    return logs_of_pass(model, logs, kind)


def _make_function(original: Callable[..., Any], model: Any, step_function: Any) -> Any:
    trains = step_function == model.train_step
    step = with_sharded_batches(model, step_function, TRAINING if trains else TEST)
    if not model.jit_compile or not several_ranks():
        return original(model, step)
    synchronizes = _has_sync_batch_normalization(model) and trains
    distributed = trains and is_distributed(leading_optimizer(model))
    if not distributed and not synchronizes:
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
