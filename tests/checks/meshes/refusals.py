"""What has to see a whole variable is refused where ranks hold parts of one."""

from __future__ import annotations

import keras
import pytest
from checks.marks import long
from checks.tensor_parallel.models import loss, text

import hvdkit as hvd

from . import made


def _divided() -> tuple[int, int, int]:
    return hvd.size() // 2, 1, 2


@long
def check_optimizers_that_look_at_whole_variables() -> None:
    with made.using(_divided()):
        for optimizer in ("Lamb", "Adafactor", "Muon"):
            model = made.language_model(1)
            own = getattr(keras.optimizers, optimizer)(0.01)
            with pytest.raises(ValueError, match=f"{optimizer} looks at a whole variable"):
                hvd.DistributedOptimizer(own).build(model.trainable_variables)


@long
def check_constraints_that_look_at_whole_variables() -> None:
    with made.using(_divided()):
        inputs = keras.Input((4,))
        layer = hvd.parallel.ColumnParallelDense(4, kernel_constraint=keras.constraints.MaxNorm(1))
        model = keras.Model(inputs, hvd.parallel.RowParallelDense(1)(layer(inputs)))
        optimizer = hvd.DistributedOptimizer("sgd")
        with pytest.raises(ValueError, match="the constraint MaxNorm looks at a whole variable"):
            optimizer.build(model.trainable_variables)


def check_an_optimizer_that_is_not_distributed() -> None:
    with made.using(_divided()):
        model = made.language_model(1)
        model.compile("sgd", loss(True))
        with pytest.raises(ValueError, match=r"wrap it, as in hvd\.DistributedOptimizer"):
            model.fit(hvd.shard(text(8), 2), verbose=0)
