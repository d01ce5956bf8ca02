"""PipelineModel: a Keras model whose layers are stages of a pipeline over ranks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import ops
from hvdkit.mesh.mesh import Mesh
from hvdkit.metrics.noted_steps import with_moments
from hvdkit.metrics.rows import TEST, TRAINING
from hvdkit.metrics.weighted_steps import with_sharded_batches
from hvdkit.optimizers.composition import is_distributed, mesh_of
from hvdkit.optimizers.distributed import DistributedOptimizer
from hvdkit.parallel.pipeline.batch import PipelineBatch
from hvdkit.parallel.pipeline.gathered_weights import raise_on_all
from hvdkit.parallel.pipeline.losses import Share, share_on_all
from hvdkit.parallel.pipeline.metrics import build_metrics
from hvdkit.parallel.pipeline.partition import (
    ModelOrFunction,
    Partition,
    partition,
    required_mesh,
)
from hvdkit.parallel.pipeline.steps import Settings, Steps
from hvdkit.parallel.pipeline.trace import Clock, Trace
from hvdkit.schedules.schedules import OneForwardOneBackward, Schedule
from hvdkit.state.unsharded import assign_unsharded_values, unsharded_values
from hvdkit.watch.activity import pause


class PipelineModel(keras.Model):
    """A Keras model cut into stages, one for each rank of a pipeline of the mesh.

    A batch is divided into micro-batches, which run through the stages at the same time. `fit`,
    `evaluate` and `predict` give what they give for the unsplit model in one process, with the
    same seed and the same batches. Every rank calls them, with the same data for all stages of a
    pipeline; losses, metrics and predictions are the same on all of them.

    Only the rank's own layers have weights here: `weights`, the optimizer and callbacks see those.
    `save` and `load_weights` collect and distribute them.

    Layers that look at other rows (BatchNormalization) see the rows of one micro-batch. Dropout
    draws anew for each micro-batch, so its masks are not those of the unsplit model.

    Args:
        model: a functional or Sequential model, which keeps the weights of this rank's stage and
            loses the others; or a function that builds it, and may load weights, of which this rank
            then only has its own.
        micro_batches: into how many micro-batches a batch is divided. A batch that has too few
            rows, as the last of an epoch may, is divided into as many as the schedule can run.
        schedule: of `hvd.parallel.schedules`; default `OneForwardOneBackward()`.
        cuts: names of the layers after which to cut, one less than there are chunks (stages times
            those of a stage); None to let all chunks compute about as much.
        recompute: keep only the inputs of a stage, and run its forward pass again in the backward
            pass: less memory, about a third more computation.

    Attributes:
        mesh: the mesh of `hvd.set_mesh`, which says which rank is which stage.
        schedule: the schedule.
        micro_batches: number of micro-batches of a full batch.
        chunks: this rank's layers: a Keras model for each chunk.

    Raises:
        ValueError: on every rank: there is no mesh, the model can't be cut so (it names the layer),
            or micro-batches, stages and schedule do not fit.
        RankMismatchError: on every rank: the ranks give different models or settings.
        HvdkitError: on every rank: the job does not run over MPI.

    Example:
        >>> hvd.set_mesh(hvd.Mesh(pipeline=2))
        >>> model = hvd.parallel.PipelineModel(build_model, micro_batches=4)
        >>> model.compile(optimizer=hvd.DistributedOptimizer("adam"), loss="mse")
        >>> model.fit(x, y, batch_size=64)
    """

    mesh: Mesh
    schedule: Schedule
    micro_batches: int
    chunks: list[keras.Model]
    _settings: Settings
    _partition: Partition
    _clock: Clock
    _share: Share
    _steps: Steps | None

    def __init__(
        self,
        model: ModelOrFunction,
        *,
        micro_batches: int,
        schedule: Schedule | None = None,
        cuts: Sequence[str] | None = None,
        recompute: bool = False,
    ) -> None:
        mesh = required_mesh()
        schedule = schedule or OneForwardOneBackward()
        own = partition(model, mesh, schedule, micro_batches, cuts)
        unsplit = own.unsplit.model
        super().__init__(name=unsplit.name, dtype=unsplit.dtype_policy)
        self.chunks = [chunk.model for chunk in own.chunks]
        # Past Keras's attribute tracking: the unsplit model's layers are not this rank's.
        self.__dict__.update(
            mesh=mesh,
            schedule=schedule,
            micro_batches=micro_batches,
            _settings=Settings(mesh, schedule, micro_batches, recompute),
            _partition=own,
            _clock=Clock(),
            _share=PipelineBatch.fraction,
            _steps=None,
        )
        self.output_names = list(own.unsplit.graph.output_names)
        self.built = True

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **options: Any) -> None:
        """Configure the training, as in Keras; every rank calls it.

        Args:
            optimizer: an optimizer; it is made distributed over the replicas of the model, unless
                it is already (`hvd.DistributedOptimizer`).
            loss: the loss or losses.
            **options: as in Keras.

        Raises:
            ValueError: on every rank: the loss of a batch is no sum of those of micro-batches.
        """
        share = share_on_all(loss, self.name, masked=self._partition.masked)
        optimizer = keras.optimizers.get(optimizer)
        if not is_distributed(optimizer):
            optimizer = DistributedOptimizer(optimizer)
        if mesh_of(optimizer) is not self.mesh:
            raise ValueError(
                "the optimizer was made distributed before hvd.set_mesh, or for another mesh, so "
                "it would average over ranks that hold other layers: wrap it after hvd.set_mesh."
            )
        super().compile(optimizer=optimizer, loss=loss, **options)
        self.__dict__.update(_share=share, _steps=None)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Not possible: this rank holds some of the layers."""
        raise NotImplementedError(
            f"{self.name} is split over {self.mesh.pipeline} ranks, so it can't be called: use "
            "predict, evaluate or fit, which all ranks call together."
        )

    @property
    def pieces(self) -> list[keras.Model]:
        """The old name of `chunks`."""
        warnings.warn(
            "PipelineModel.pieces is called chunks now.", DeprecationWarning, stacklevel=2
        )
        return self.chunks

    @property
    def trainable_variables(self) -> list[Any]:
        """Those that this rank's optimizer updates: of tied weights, the first stage's does."""
        return self._partition.tied.own(super().trainable_variables)

    @property
    def trainable_weights(self) -> list[Any]:
        """As `trainable_variables`, which layers have no other."""
        return self._partition.tied.own(super().trainable_weights)

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Make the variables of the metrics for a batch, as the first step would."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data_batch)
        rows = keras.tree.flatten(x)[0].shape[0]
        build_metrics(self, self._partition.unsplit.outputs(rows), y, sample_weight)

    def make_train_function(self, force: bool = False) -> None:
        """Make the function that `fit` calls for each step."""
        steps = self._fresh_steps(force)
        self.train_function = self._over_batches(steps.train, TRAINING)

    def make_test_function(self, force: bool = False) -> None:
        """Make the function that `evaluate` calls for each step."""
        steps = self._fresh_steps(force)
        self.test_function = self._over_batches(steps.test, TEST)

    def make_predict_function(self, force: bool = False) -> None:
        """Make the function that `predict` calls for each step."""
        step = self._autoconvert_optionals(self._fresh_steps(force).predict)

        def function(batches: Sequence[Any]) -> Any:
            found = [step(batch) for batch in batches]
            return keras.tree.map_structure(lambda *tensors: tf.concat(tensors, 0), *found)

        self.predict_function = function

    def _over_batches(self, step: Callable[[Any], Any], kind: str) -> Callable[[Any], Any]:
        """Call a step for each of `steps_per_execution` batches of an iterator."""
        step = with_sharded_batches(self, step, kind)
        step = self._autoconvert_optionals(with_moments(self, step) if kind == TRAINING else step)

        def function(iterator: Any) -> Any:
            logs = step(next(iterator))
            for _, batch in zip(range(self.steps_per_execution - 1), iterator, strict=False):
                logs = step(batch)
            return logs

        return function

    def _fresh_steps(self, force: bool) -> Steps:
        if self._steps is None or force:
            self.__dict__["_steps"] = Steps(
                self, self._settings, self._partition, self._share, self._clock
            )
        assert self._steps is not None
        self._steps.next_is_first()
        return self._steps

    @property
    def kept(self) -> int:
        """How many micro-batches this stage kept the activations of at most, in the last step."""
        return 0 if self._steps is None else self._steps.kept

    def trace(self) -> Trace:
        """Measure when each stage does what, in the steps inside the block; every rank calls it.

        Example:
            >>> with model.trace() as trace:
            ...     model.fit(x, y, batch_size=64, epochs=1)
            >>> trace.timelines[-1].bubble  # of the last step; on every rank
        """
        return Trace(self._clock, self.mesh.pipeline_set)

    def save(self, filepath: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """Write the unsplit model to a `.keras` file; every rank calls it, and rank 0 writes.

        `keras.models.load_model` loads it, with the weights and without the optimizer. Rank 0
        needs memory for the weights of all stages, which come one by one.

        Args:
            filepath: the file.
            *args: as in Keras.
            **options: as in Keras.
        """
        self._write(lambda unsplit: unsplit.save(filepath, *args, **options))

    def save_weights(self, filepath: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """Write the unsplit model's weights to a `.weights.h5` file; see `save`."""
        self._write(lambda unsplit: unsplit.save_weights(filepath, *args, **options))

    def load_weights(self, filepath: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """Read the unsplit model's weights from a file; every rank calls it.

        The first stage of each pipeline reads the file, and gives the others theirs.

        Args:
            filepath: a `.weights.h5` or `.keras` file of the unsplit model.
            *args: as in Keras.
            **options: as in Keras.

        Raises:
            OSError, ValueError, HvdkitError: on every rank: the first stage can't read it.
        """
        with self._partition.unsplit.scattered() as unsplit:
            if unsplit is not None:
                with pause("reading the unsplit model"):
                    unsplit.load_weights(filepath, *args, **options)
        self._have_other_weights()

    def gather_weights(self) -> list[np.ndarray] | None:
        """The unsplit model's weights (`get_weights`) on the first stage; every rank calls it.

        All ranks return when it is done.

        Returns:
            The weights, unsharded even where a tensor group shards layers, on the first stage of
            each pipeline; None on the others.
        """
        with self._partition.unsplit.gathered() as unsplit:
            weights = None if unsplit is None else unsharded_values(unsplit.weights)
        ops.barrier()
        return weights

    def scatter_weights(self, weights: Sequence[np.ndarray] | None) -> None:
        """Give all stages the unsplit model's weights; every rank calls it.

        Args:
            weights: what `gather_weights`, or `get_weights` of the unsplit model, returned; only
                that of the first stage counts.
        """
        with self._partition.unsplit.scattered() as unsplit:
            if unsplit is not None:
                assign_unsharded_values(unsplit.weights, weights or [])
        self._have_other_weights()

    def _have_other_weights(self) -> None:
        """Let tied weights be alike; traced functions hold constants made of the weights before."""
        self._partition.tied.refresh()
        self.__dict__["_steps"] = None

    def _write(self, write: Callable[[keras.Model], None]) -> None:
        """Write from the first stage of the first replica; all ranks return when it is done."""
        raise_on_all(self._partition.unsplit.write(write) if self.mesh.data_index == 0 else None)
