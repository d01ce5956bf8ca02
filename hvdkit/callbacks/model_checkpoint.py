"""Model files written by rank 0."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.callbacks.averaged_logs import AgreedLogs
from hvdkit.engine import topology
from hvdkit.optimizers.composition import mesh_of
from hvdkit.state.meeting import bring_together
from hvdkit.state.reachable import leading_optimizer


class ModelCheckpoint(AgreedLogs, keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that writes on rank 0 only.

    What it monitors at the end of an epoch is that of all ranks; within an epoch (`save_freq` a
    number of batches) it is that of rank 0's batches. Before a model is saved, moving statistics
    (BatchNormalization's) are averaged over ranks, and an exchange that lets weights differ brings
    them together. Every rank has it. Takes the arguments of Keras's callback.
    """

    def _save_model(self, epoch: int, batch: int | None, logs: dict[str, Any] | None) -> None:
        bring_together(self.model)
        if self.save_best_only and self.monitor_op is None:  # Keras does it after an epoch only
            self._set_monitor_op()
        # Ranks that hold shards or stages of a model write one file together.
        mesh = mesh_of(leading_optimizer(self.model))
        if topology.rank() == 0 or (mesh is not None and mesh.is_model_parallel):
            super()._save_model(epoch, batch, logs)


class BestModelCheckpoint(ModelCheckpoint):
    """Keep the best model, by a metric of all ranks; rank 0 writes.

    Args:
        monitor: the metric.
        verbose: 1 to say when a model is saved.
        save_weights_only: save weights instead of the whole model.
        mode: "min", "max", or "auto" to tell from the metric's name.
        save_freq: "epoch", or a number of batches.
        filepath: the file, ".keras" (or ".weights.h5"); it can be set later, as an attribute.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        *,
        filepath: str | None = None,
    ) -> None:
        suffix = ".weights.h5" if save_weights_only else ".keras"
        super().__init__(
            filepath=filepath or f"best{suffix}",
            monitor=monitor,
            verbose=verbose,
            save_best_only=True,
            save_weights_only=save_weights_only,
            mode=mode,
            save_freq=save_freq,
        )
        if filepath is None:
            self.filepath: str | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that there is a file to write."""
        if self.filepath is None:
            raise ValueError("BestModelCheckpoint has no file: set its filepath.")
        super().on_train_begin(logs)
