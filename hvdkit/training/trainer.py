"""The seven functions of Keras's trainer that hvdkit changes, and what they gain.

They do as before for a process that trains alone with plain data. What is put around Keras's own
callbacks, files, metrics and optimizers is patched where it is needed; see `hvdkit.patches`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from hvdkit import patches
from hvdkit.data import autotuning
from hvdkit.data.adapter import ShardedAdapter
from hvdkit.data.fit_position import current_position
from hvdkit.engine import is_initialized, logger, several_ranks, topology
from hvdkit.keras_internals import TensorFlowTrainer, TFEpochIterator, is_of_keras
from hvdkit.metrics import kinds
from hvdkit.metrics.logs import logs_of_pass
from hvdkit.metrics.noted_steps import with_moments, without_moments
from hvdkit.metrics.rows import TEST, TRAINING, end_pass
from hvdkit.metrics.weighted_steps import Step, with_sharded_batches
from hvdkit.patches import Patch
from hvdkit.state.constants import NOTE_CONSTANTS
from hvdkit.state.meeting import bring_together, reported
from hvdkit.training import complete_files
from hvdkit.training.build import BuiltFirst
from hvdkit.training.comparison import SameSteps, current_comparison
from hvdkit.training.features import Call, Feature, in_call, with_features
from hvdkit.training.fit_callbacks import AddedChecks, BackupLast, StopsTogether
from hvdkit.training.measured import Measured
from hvdkit.training.measured_shares import SharesMeasured
from hvdkit.training.messages import ExplainedErrors, OneProgressBar
from hvdkit.training.moments import NotedMoments
from hvdkit.training.on_local_replicas import BuiltForParts, RefusedOnReplicas
from hvdkit.training.on_several_ranks import AgreedCallbacks
from hvdkit.training.out_of_step import RanksOutOfStep
from hvdkit.training.prediction import PredictionsOfAllRanks, rows_being_read
from hvdkit.training.refusals import RefusedData, RefusedOptimizer
from hvdkit.training.sharded_reading import (
    ComparedBatch,
    Position,
    ReadSharded,
    RowsCounted,
    end_is_no_surprise,
    reads_sharded,
    trains,
)
from hvdkit.training.training_apart import TrainingApart
from hvdkit.training.xla import reduction_outside

_KNOWS_STEPS = "_hvdkit_knows_steps"


class KnownSteps(Feature):
    """Steps that Keras made before its trainer was patched are made again: they count no rows."""

    def before(self, call: Call) -> None:
        """Forget such steps."""
        model = call.model
        if vars(model).get(_KNOWS_STEPS):
            return
        vars(model)[_KNOWS_STEPS] = True
        for name in ("train_function", "test_function"):
            if is_of_keras(getattr(model, name)):
                setattr(model, name, None)


# The first one is the outermost.
FIT: tuple[Callable[[], Feature], ...] = (
    Measured,
    KnownSteps,
    OneProgressBar,
    RefusedData,
    RefusedOnReplicas,
    BuiltForParts,
    StopsTogether,
    BackupLast,
    SharesMeasured,
    NotedMoments,
    BuiltFirst,
    RefusedOptimizer,
    AgreedCallbacks,
    RanksOutOfStep,
    ReadSharded,
    AddedChecks,
    SameSteps,
    RowsCounted,
    Position,
    ExplainedErrors,
)
EVALUATE: tuple[Callable[[], Feature], ...] = (
    TrainingApart,
    KnownSteps,
    OneProgressBar,
    RefusedData,
    RefusedOnReplicas,
    BuiltForParts,
    ReadSharded,
    ComparedBatch,
    SameSteps,
    RowsCounted,
    Position,
    ExplainedErrors,
)
PREDICT: tuple[Callable[[], Feature], ...] = (
    OneProgressBar,
    RefusedData,
    ReadSharded,
    SameSteps,
    Position,
    PredictionsOfAllRanks,
)


def _make_function(original: Callable[..., Any], model: Any, step_function: Step) -> Any:
    vars(model)[_KNOWS_STEPS] = True
    of_training = step_function == model.train_step
    step = with_sharded_batches(model, step_function, TRAINING if of_training else TEST)
    if not of_training:
        return original(model, step)
    outside = reduction_outside(model, step) if _is_one_of_several() else nullcontext(step)
    with outside if model.jit_compile else nullcontext(step) as step:
        noting = without_moments if model.jit_compile else with_moments
        return original(model, noting(model, step))


def _is_one_of_several() -> bool:
    """Whether there are other ranks, though this one may be `alone` now."""
    return is_initialized() and topology.size() > 1


def _enumerate_iterator(original: Callable[..., Any], iterator: Any) -> Iterator[Any]:
    if several_ranks() and not in_call():
        _say_unpatched()
    autotuning.leave_out(iterator)
    steps = original(iterator)
    follower = rows_being_read() or current_position()
    steps = steps if follower is None else follower.follow(iterator, steps)
    if isinstance(iterator.data_adapter, ShardedAdapter):
        end_is_no_surprise(iterator)
        steps = iterator.data_adapter.counted(steps)
    comparison = current_comparison()
    return steps if comparison is None else comparison.follow(iterator, steps)


@functools.cache
def _say_unpatched() -> None:
    """Once: somebody holds Keras's own method, taken before hvdkit changed it."""
    logger.warning(
        "hvdkit: rank %d: Keras's fit, evaluate or predict runs as it was before hvd.init(), so "
        "ranks do not agree on steps, files and statistics. Call hvd.init() before a class or a "
        "tool takes the method from keras.Model.",
        topology.rank(),
    )


def _metrics_result(original: Callable[..., Any], model: Any, logs: Any) -> Any:
    position, comparison = current_position(), current_comparison()
    if position is not None and position.resumed and not logs:  # no batch was left of the epoch
        logs = model.get_metrics_result()
    if trains(model):
        if comparison is not None:
            comparison.end_epoch()
        # The steps of an epoch are done: before validation, callbacks, and files they write, and
        # on every rank, whether it validates or not.
        bring_together(model)
    kind = TRAINING if trains(model) else TEST
    end_pass(model, kind)
    if not several_ranks() or not reads_sharded(model):
        of_pass = original(model, logs)
    else:
        of_pass = logs_of_pass(model, logs, kind)
    more = reported(model) if trains(model) else {}
    return {**dict(of_pass), **more} if more else of_pass


PATCHES = (
    Patch(
        TensorFlowTrainer,
        "fit",
        functools.partial(with_features, FIT),
        "takes data from `hvd.shard`; ranks agree on callbacks, steps and variables",
    ),
    Patch(
        TensorFlowTrainer,
        "evaluate",
        functools.partial(with_features, EVALUATE),
        "takes data from `hvd.shard`; results are those of all ranks",
    ),
    Patch(
        TensorFlowTrainer,
        "predict",
        functools.partial(with_features, PREDICT),
        "takes data from `hvd.shard`; every rank gets the predictions of all",
    ),
    Patch(
        TensorFlowTrainer,
        "_make_function",
        _make_function,
        "steps count rows; XLA compiles all but the reduction",
    ),
    Patch(
        TensorFlowTrainer,
        "_get_metrics_result_or_logs",
        _metrics_result,
        "logs of a pass are those of all ranks; weights and statistics are brought together",
    ),
    Patch(
        TFEpochIterator,
        "_enumerate_iterator",
        _enumerate_iterator,
        "an epoch can start in its middle; batches are counted and compared",
    ),
)


def install() -> None:
    """Put in place what a training of several ranks needs; calling it again does nothing."""
    patches.install(*PATCHES, *kinds.PATCHES, *complete_files.PATCHES, NOTE_CONSTANTS)
