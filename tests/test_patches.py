"""What hvdkit changes in Keras: nothing at import, and each change once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from launch import run_ranks

from hvdkit import patches
from hvdkit.patches import Patch

_NOTHING_AT_IMPORT = """
import keras

def attributes():
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator
    from keras.src.saving import saving_lib
    owners = [TensorFlowTrainer, TFEpochIterator, saving_lib, keras.Model, keras.Layer]
    owners += [keras.metrics.Mean, keras.optimizers.Optimizer, keras.random.SeedGenerator]
    return [dict(vars(owner)) for owner in owners]

before = attributes()
import hvdkit as hvd
import hvdkit.parallel, hvdkit.callbacks, hvdkit.training.trainer
from hvdkit import patches
assert patches.installed() == []
assert all(a.items() <= b.items() for a, b in zip(before, attributes()))
hvd.init()
of_trainer = {"TensorFlowTrainer", "TFEpochIterator"}
trainer = [p for p in patches.installed() if p.owner.__name__ in of_trainer]
assert 0 < len(trainer) <= 6, trainer
assert attributes() != before
"""


_TRAINED_BEFORE_INIT = """
import keras
import numpy as np
import hvdkit as hvd
from hvdkit import patches

x, y = np.random.default_rng(0).normal(size=(2, 10, 3)).astype("float32")
normalization = keras.layers.Normalization()
model = keras.Sequential([keras.Input((3,)), normalization, keras.layers.Dense(3)])
model.compile("sgd", "mse")
model.fit(x, y, batch_size=5, validation_data=(x, y), verbose=0)
assert patches.installed() == []

hvd.init()
normalization.adapt(x + hvd.rank())
hvd.broadcast_variables(model.variables, root_rank=0)
model.optimizer = hvd.DistributedOptimizer(model.optimizer)
data = hvd.shard((x, y), batch_size=2)  # 3 steps; one rank is left with padding in the last one
logs = model.fit(data, validation_data=data, verbose=0).history
expected = float(keras.ops.mean(keras.losses.mean_squared_error(y, model.predict(x, verbose=0))))
assert abs(logs["val_loss"][0] - expected) < 1e-5, (logs, expected)
mean = np.asarray(normalization.mean)
assert np.allclose(mean, x.mean(0), atol=1e-5), "the constant is not that of rank 0"
assert len({o for o in hvd.allgather_object(model.get_weights()[-1].tobytes())}) == 1
print("TRAINED")
"""


class Base:
    """Something to patch."""

    def number(self) -> int:
        """One."""
        return 1


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> type[Base]:
    """A class of the test's own; what is installed is forgotten afterwards."""
    monkeypatch.setattr(patches, "_installed", [])

    class Own(Base):
        def number(self) -> int:
            return super().number()

    return Own


def _more(original: Callable[..., int], *args: Any) -> int:
    return 10 + original(*args)


def _twice(original: Callable[..., int], *args: Any) -> int:
    return 2 * original(*args)


@pytest.mark.long
def test_import_changes_nothing() -> None:
    run_ranks("python", 1, ["-c", _NOTHING_AT_IMPORT], timeout=120).require_success()


@pytest.mark.long
def test_a_model_that_was_trained_before_init_goes_on_on_several_ranks() -> None:
    """Its steps are made again, and its layers with constants are found."""
    job = run_ranks("mpi", 2, ["-c", _TRAINED_BEFORE_INIT], timeout=180, forked=True)
    job.require_success()
    assert job.output.count("TRAINED") == 2


def test_a_patch_is_put_in_place_once(base: type[Base]) -> None:
    patch = Patch(base, "number", _more, "more")
    assert patches.install(patch)
    assert not patches.install(patch)
    assert not patches.install(Patch(base, "number", _more, "the same in other words"))
    assert base().number() == 11
    assert patches.installed() == [patch]
    assert str(patch) == "Own.number: more"


def test_patches_of_one_place_are_around_each_other(base: type[Base]) -> None:
    assert patches.install(
        Patch(base, "number", _more, "more"), Patch(base, "number", _twice, "twice")
    )
    assert not patches.install(Patch(base, "number", _more, "more"))
    assert base().number() == 22


def test_subclasses_find_the_hook_once(base: type[Base]) -> None:
    class Overrides(base):  # type: ignore[misc, valid-type]
        def number(self) -> int:
            return 100 + super().number()

    class Inherits(base):  # type: ignore[misc, valid-type]
        pass

    patches.install(Patch(base, "number", _more, "more"))
    assert not patches.install(Patch(Inherits, "number", _more, "more"))
    assert Overrides().number() == 111
    assert Inherits().number() == 11
    assert patches.install(Patch(Overrides, "number", _more, "a method of its own"))
    assert Overrides().number() == 121


def test_threads_install_one_patch(base: type[Base]) -> None:
    start, news = threading.Barrier(8), []

    def install() -> None:
        start.wait()
        news.append(patches.install(Patch(base, "number", _more, "more")))

    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(news) == [False] * 7 + [True]
    assert base().number() == 11


def test_a_group_is_installed_by_who_offers_it(base: type[Base]) -> None:
    patch = Patch(base, "number", _more, "more")
    patches.offer("test", lambda: print(patches.install(patch)))
    patches.need("test")
    patches.need("test")
    assert patches.installed() == [patch]
    with pytest.raises(KeyError):
        patches.need("nobody offers it")
