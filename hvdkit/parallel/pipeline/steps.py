"""The training, test and prediction step of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import raise_everywhere
from hvdkit.exchange.gradient import Gradient, added
from hvdkit.mesh.mesh import Mesh
from hvdkit.optimizers.composition import leaves
from hvdkit.parallel.pipeline.batch import PipelineBatch, as_tensors, require_same_batch
from hvdkit.parallel.pipeline.chunk import Chunk, KeptPass, RecomputedPass
from hvdkit.parallel.pipeline.links import (
    NUMBERS_OF_TENSOR,
    signatures_as_numbers,
    signatures_from_numbers,
)
from hvdkit.parallel.pipeline.losses import LossHead, Share
from hvdkit.parallel.pipeline.metrics import build_metrics, share_states
from hvdkit.parallel.pipeline.partition import ChunkModel, Partition
from hvdkit.parallel.pipeline.stage import Outputs, Stage
from hvdkit.parallel.pipeline.trace import Clock
from hvdkit.schedules.actions import Action
from hvdkit.schedules.schedules import Schedule, fitting


@dataclass(frozen=True)
class Settings:
    """How a batch goes through a pipeline.

    Attributes:
        mesh: which rank is which stage.
        schedule: in which order.
        micro_batches: in how many micro-batches.
        recompute: whether activations are computed again instead of kept.
    """

    mesh: Mesh
    schedule: Schedule
    micro_batches: int
    recompute: bool


class Steps:
    """What one rank does for a batch; all ranks of the pipeline do it together.

    Args:
        model: the Keras model that holds optimizer, loss and metrics.
        settings: how a batch goes through the pipeline.
        partition: this rank's chunks.
        share: what the loss of a micro-batch counts in that of the batch.
        clock: notes what the stage does.

    Attributes:
        kept: how many micro-batches the stage kept the activations of at most, in the last step.
    """

    def __init__(
        self, model: Any, settings: Settings, partition: Partition, share: Share, clock: Clock
    ) -> None:
        self._model, self._settings, self._partition = model, settings, partition
        self._clock, self._messages = clock, partition.messages
        self._last = settings.mesh.pipeline - 1
        self._is_last = settings.mesh.pipeline_index == self._last
        self._chunks = [self._chunk(layers) for layers in partition.chunks]
        keep = RecomputedPass if settings.recompute else KeptPass
        self._stage = Stage(self._chunks, keep, share, clock)
        self._apply = self._compiled(self._apply_gradients)
        self._update_metrics = self._compiled(self._update_compiled_metrics)
        self._actions: dict[int, Sequence[Action]] = {}
        self._unchecked = True
        self._trains = False
        self.kept = 0

    def next_is_first(self) -> None:
        """The next batch is the first of a pass over data: compare it between the stages."""
        self._unchecked = True

    def train(self, data: Any) -> dict[str, Any]:
        """One step of `fit`; returns the metrics."""
        self._partition.tied.refresh()
        batch, actions = self._begin(data)
        optimizer = self._model.optimizer
        if not self._trains:
            self._require_variables(optimizer)
            self._partition.tied.require_same_flags()
            if not optimizer.built:
                optimizer.build(self._model.trainable_variables)
            self._trains = True
        self._clock.new_step()
        with self._messages.during("a training step of the pipeline"):
            seed = optimizer.scale_loss(tf.ones([], tf.float32))
            result = self._stage.train(batch, actions, seed, self._metrics_of(batch))
            self._apply(self._gradients(result.gradients))
            self._end(batch, result.loss)
        self.kept = result.kept
        metrics: dict[str, Any] = self._model.get_metrics_result()
        return metrics

    def test(self, data: Any) -> dict[str, Any]:
        """One step of `evaluate`; returns the metrics."""
        self._refresh_at_first()
        batch, actions = self._begin(data)
        with self._messages.during("a step of evaluate in the pipeline"):
            result = self._stage.test(batch, actions, self._metrics_of(batch), with_targets=True)
            self._end(batch, result.loss)
        metrics: dict[str, Any] = self._model.get_metrics_result()
        return metrics

    def predict(self, data: Any) -> Any:
        """One step of `predict`; returns the outputs, on all stages."""
        self._refresh_at_first()
        batch, actions = self._begin(data)
        found: dict[int, list[tf.Tensor]] = {}
        with self._messages.during("a step of predict in the pipeline"):
            self._stage.test(batch, actions, found.__setitem__, with_targets=False)
            columns = zip(*(found[i] for i in range(batch.count)), strict=True) if found else []
            outputs = self._sent_to_all([batch.joined(tensors) for tensors in columns])
            self._messages.flush()
        return self._packed(outputs)

    def _refresh_at_first(self) -> None:
        """In a pass without training the weights stay as they are."""
        if self._unchecked:
            self._partition.tied.refresh()

    def _begin(self, data: Any) -> tuple[PipelineBatch, Sequence[Action]]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(as_tensors(data))
        if self._unchecked and self._messages.size > 1:
            require_same_batch((x, y, sample_weight), self._settings.mesh.pipeline_set)
        self._unchecked = False
        inputs = self._partition.unsplit.graph._standardize_inputs(x)
        rows, stages = int(inputs[0].shape[0]), self._settings.mesh.pipeline
        count = fitting(self._settings.schedule, stages, min(self._settings.micro_batches, rows))
        if self._model.compiled:
            self._build_metrics(rows, y, sample_weight)
        if count not in self._actions:
            plan = self._settings.schedule.plan(stages, count)
            self._actions[count] = plan[self._settings.mesh.pipeline_index]
        return PipelineBatch(inputs, y, sample_weight, count), self._actions[count]

    def _end(self, batch: PipelineBatch, loss: float) -> None:
        """Give all stages the metrics of the last."""
        if self._is_last:
            self._model._loss_tracker.update_state(loss, sample_weight=batch.rows)
        metrics = self._model._get_own_metrics()
        variables = [variable for metric in metrics for variable in metric.variables]
        share_states(variables, self._messages, self._last)
        self._messages.flush()

    def _metrics_of(self, batch: PipelineBatch) -> Outputs:
        def update(micro_batch: int, outputs: list[tf.Tensor]) -> None:
            self._update_metrics(outputs, *batch.targets(micro_batch))

        return update

    def _update_compiled_metrics(self, outputs: list[Any], y: Any, sample_weight: Any) -> None:
        if self._model._compile_metrics is not None:
            self._model._compile_metrics.update_state(y, self._packed(outputs), sample_weight)

    def _build_metrics(self, rows: int, y: Any, sample_weight: Any) -> None:
        build_metrics(self._model, self._partition.unsplit.outputs(rows), y, sample_weight)

    def _trained(self) -> list[Any]:
        """The variables that this stage's optimizer updates."""
        variables = {id(v): v for chunk in self._chunks for v in chunk.trainable_variables}
        return self._partition.tied.own(list(variables.values()))

    def _gradients(self, of_chunks: list[list[Gradient]]) -> list[Gradient]:
        """The gradients of `_trained`, of all chunks and stages that use them."""
        sums: dict[int, Gradient] = {}
        for chunk, gradients in zip(self._chunks, of_chunks, strict=True):
            for variable, gradient in zip(chunk.trainable_variables, gradients, strict=True):
                (sums[id(variable)],) = added([sums.get(id(variable))], [gradient])
        sums = self._partition.tied.summed(sums)
        return [sums[id(variable)] for variable in self._trained()]

    def _apply_gradients(self, gradients: list[Any]) -> None:
        optimizer = self._model.optimizer
        variables = self._trained()
        if variables:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        else:
            optimizer.iterations.assign_add(1)

    def _require_variables(self, optimizer: Any) -> None:
        """Where all stages decide together, each has to come to the decision."""
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        together = scaled or any(leaf.global_clipnorm for leaf in leaves(optimizer))
        problem = None
        if together and not self._model.trainable_variables:
            problem = (
                f"stage {self._settings.mesh.pipeline_index} has no trainable variables, but "
                "loss scaling and global_clipnorm look at the gradients of all stages. Use other "
                "cuts, or another optimizer."
            )
        raise_everywhere(problem, ValueError)

    def _chunk(self, layers: ChunkModel) -> Chunk:
        loss = self._model._compile_loss
        last = layers.ends.after is None and loss is not None
        head = LossHead(loss, self._packed) if last else None
        return Chunk(layers.model, layers.ends, head, self._compiled)

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if self._model.run_eagerly:
            return function
        compiled: Callable[..., Any] = tf.function(function, autograph=False, reduce_retracing=True)
        return compiled

    def _packed(self, flat: Sequence[Any]) -> Any:
        """The model's outputs in the structure of the unsplit model."""
        return self._partition.unsplit.packed(flat)

    def _sent_to_all(self, outputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """The last stage's outputs, on all stages."""
        if self._messages.size == 1:
            return outputs
        header = np.zeros(
            len(self._partition.unsplit.graph.outputs) * NUMBERS_OF_TENSOR, np.float64
        )
        if self._is_last:
            header[:] = signatures_as_numbers(outputs)
        self._messages.broadcast([header], self._last)
        arrays = [tensor.numpy() for tensor in outputs] or [
            np.empty(tensor.shape, tensor.dtype.as_numpy_dtype)
            for tensor in signatures_from_numbers(header.tolist())
        ]
        self._messages.broadcast(arrays, self._last)
        return [tf.constant(array) for array in arrays]
