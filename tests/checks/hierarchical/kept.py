"""What leaders keep is sent, compared, saved and resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from checks.checkpoints.runs import build, require_same_end, shared_folder, train
from checks.compression.methods import METHODS, gradients_of, kept, optimizer_with, variables_of
from checks.hierarchical.levels import all_groups, forgetting_process_sets, some_groups
from checks.marks import long
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, ErrorFeedback, Hierarchical, PowerSGD, TopK


def _require_resumed(make: Callable[[], Any]) -> None:
    """A training that is stopped goes on to the bit, with all that its exchange keeps."""

    def model() -> Any:
        return build(distributed={"exchange": AllReduce(make())}, optimizer=optimizers.SGD(0.01))

    options: dict[str, Any] = {"save_freq": 3, "epochs": 1}
    if 50 // (4 * hvd.size()) < 4:
        options["epochs"] = 2
    never, folder = train(shared_folder(), model=model(), **options), shared_folder()
    assert train(folder, stop=4, model=model(), **options) is None
    end = train(folder, model=model(), **options)
    assert never is not None
    assert end is not None
    require_same_end(never, end)
    expected = kept(never.model.optimizer)
    for mine, other in zip(kept(end.model.optimizer), expected, strict=True):
        np.testing.assert_array_equal(mine, other)


@long
def check_what_leaders_keep_is_saved_and_resumed() -> None:
    with forgetting_process_sets():
        groups = some_groups()
        _require_resumed(
            lambda: Hierarchical(PowerSGD(rank=1, start_step=2, min_compression=0.5), groups=groups)
        )


@long
def check_velocities_of_leaders_are_saved_and_resumed() -> None:
    with forgetting_process_sets():
        top = {"ratio": 0.1, "momentum": 0.9, "warmup_steps": 6}
        _require_resumed(lambda: Hierarchical(TopK(**top), groups=all_groups()[1]))


@long
def check_residuals_around_are_saved_and_resumed() -> None:
    with forgetting_process_sets():
        groups = all_groups()[1]
        _require_resumed(lambda: ErrorFeedback(Hierarchical(hvd.exchange.OneBit(), groups=groups)))


@long
def check_a_checkpoint_goes_on_to_the_bit_and_on_other_hosts() -> None:
    """With the same groups nothing changes; with others nothing is lost."""
    with forgetting_process_sets():
        folder, groups, others = shared_folder(), all_groups()[0], all_groups()[-1]

        def trained(groups: Any, steps: range, restore: bool) -> Any:
            variables = variables_of(((6, 5), (4,)))
            aggregator = Hierarchical(METHODS["power"](), groups=groups)
            optimizer = optimizer_with(aggregator, variables)
            model = _Holder(variables, optimizer)
            if restore:
                hvd.checkpoint.restore(folder, model.keras, optimizer)
            for number in steps:
                gradients = gradients_of(number, hvd.rank(), ((6, 5), (4,)))
                optimizer.apply([*map(tf.constant, gradients)])
            return model

        never = trained(groups, range(4), restore=False)
        first = trained(groups, range(2), restore=False)
        hvd.checkpoint.save(folder, first.keras, first.optimizer)
        again = trained(groups, range(2, 4), restore=True)
        for mine, other in zip(again.values(), never.values(), strict=True):
            np.testing.assert_array_equal(mine, other)
        elsewhere = trained(others, range(2, 4), restore=True)
        given = [gradients_of(n, hvd.rank(), ((6, 5), (4,))) for n in range(4)]
        whole = [np.sum(each, axis=0) for each in zip(*given, strict=True)]
        left_over = kept(elsewhere.optimizer, "residual")
        assert len(left_over) == 2
        for variable, gradient, left in zip(elsewhere.variables, whole, left_over, strict=True):
            mean = hvd.allreduce(tf.constant(gradient - left))
            np.testing.assert_allclose(-variable.numpy(), mean, rtol=1e-4, atol=1e-4)


class _Holder:
    """Variables as those of a model, which checkpoints take."""

    def __init__(self, variables: list[Any], optimizer: Any) -> None:
        import keras

        class Layer(keras.layers.Layer):
            def __init__(self) -> None:
                super().__init__(name="holder")
                self.first, self.second = variables

            def call(self, x: Any) -> Any:
                return x

        self.variables, self.optimizer = variables, optimizer
        self.keras = keras.Sequential([keras.Input((1,)), Layer()])

    def values(self) -> list[np.ndarray]:
        return [v.numpy() for v in self.variables] + kept(self.optimizer)


def check_any_rank_can_send_it() -> None:
    """A rank that is no leader has what leaders have in common, too."""
    with forgetting_process_sets():
        variables = variables_of(((6, 5), (4,)))
        optimizer = optimizer_with(
            Hierarchical(METHODS["late power"](), groups=some_groups()), variables
        )
        for number in range(3):
            optimizer.apply([*map(tf.constant, gradients_of(number, hvd.rank(), ((6, 5), (4,))))])
        holder = _Holder(variables, optimizer)
        holder.keras.compile(optimizer, "mse")
        before = holder.values()
        callback = hvd.callbacks.BroadcastGlobalVariablesCallback(1)
        callback.set_model(holder.keras)
        callback.on_train_begin()
        for old, new in zip(before, holder.values(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert int(kept(optimizer, "low_rank/steps")[0]) == 3
