"""What is wrong is an error on every rank, or said once."""

from __future__ import annotations

import threading
from typing import Any

import keras
import pytest
from checks.hearing import heard
from checks.marks import long
from checks.monitor.kept import Kept, monitored
from checks.reference import data, mlp

import hvdkit as hvd
from hvdkit.monitoring.sample import Alarm, Sample


def _model() -> keras.Model:
    model = mlp(0)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)), "mse")
    return model


def _rows(steps: int = 4) -> Any:
    return hvd.shard(data(hvd.size() * 2 * steps), 2)


def check_arguments() -> None:
    for every in (0, -1, 2.0, True, "2"):
        with pytest.raises(ValueError, match="every is a positive number of steps"):
            hvd.callbacks.Monitor(every)
    with pytest.raises(ValueError, match="peak_flops is a positive number"):
        hvd.callbacks.Monitor(peak_flops=0.0)


def check_every_rank_has_to_have_it() -> None:
    if hvd.size() == 1:
        return
    callbacks = [hvd.callbacks.Monitor(sinks=[])] if hvd.rank() == 0 else []
    with pytest.raises(hvd.RankMismatchError, match="Monitor is given to fit on rank 0, but not"):
        _model().fit(_rows(), verbose=0, callbacks=callbacks)


@long
def check_sinks_on_one_rank_are_enough() -> None:
    kept = Kept()
    sinks = [kept] if hvd.rank() == 0 else []
    _model().fit(_rows(), verbose=0, callbacks=[hvd.callbacks.Monitor(2, sinks, alarms=[])])
    assert len(kept.of_steps) == (2 if hvd.rank() == 0 else 0)


def check_a_sink_that_cannot_begin_is_an_error_on_every_rank() -> None:
    class Closed(Kept):
        def begin(self, job: Any) -> None:
            raise hvd.HvdkitError("port 1 of this host is taken: choose another one.")

    monitor = hvd.callbacks.Monitor(2, [Closed()])
    model = _model()
    with pytest.raises(hvd.HvdkitError, match="port 1 of this host is taken"):
        model.fit(_rows(), verbose=0, callbacks=[monitor])
    assert int(model.optimizer.iterations) == 0


@long
def check_sinks_end_after_an_error() -> None:
    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                raise RuntimeError("the user's")

    kept = Kept()
    monitor = hvd.callbacks.Monitor(1, [kept], alarms=[])
    with pytest.raises(RuntimeError, match="the user's"):
        _model().fit(_rows(), verbose=0, callbacks=[monitor, Fails()])
    assert kept.ends == (1 if hvd.rank() == 0 else 0)


def check_alarms_are_said_and_handed_on_by_one_rank() -> None:
    """Beside a sink that fails, which is said once, and training goes on."""

    class Always:
        def __init__(self) -> None:
            self.seen = 0

        def look(self, sample: Sample) -> Alarm | None:
            self.seen += 1
            return Alarm("loss", "look at this.", sample.step) if self.seen == 2 else None

    class Broken(Kept):
        def log(self, sample: Sample) -> None:
            raise OSError("no space left on device")

    kept, handed = Kept(), []
    lookout, model = Always(), _model()
    monitor = hvd.callbacks.Monitor(1, [Broken(), kept], alarms=[lookout], on_alarm=handed.append)
    speaks = int(hvd.rank() == 0)
    for fits in (1, 2):  # each begins with a fresh one
        with heard() as texts:
            model.fit(_rows(), verbose=0, callbacks=[monitor])
        assert len(handed) == len(kept.alarms) == fits * speaks
        assert texts.count("hvdkit: look at this.") == speaks
        said = [text for text in texts if "no space left" in text]
        assert len(said) == speaks, texts
        assert all("Broken takes no more figures" in text for text in said)
        assert len(kept.of_steps) == 3 * fits * speaks
    assert lookout.seen == 0


@long
def check_one_monitor_given_twice() -> None:
    """Each step would count twice."""
    monitor = hvd.callbacks.Monitor(1, [], alarms=[])
    with pytest.raises(ValueError, match=r"got one hvd\.callbacks\.Monitor twice"):
        _model().fit(_rows(), verbose=0, callbacks=[monitor, monitor])
    _model().fit(_rows(), verbose=0, callbacks=[monitor])


@long
def check_ranks_that_train_alone_are_told_by_the_first() -> None:
    """An optimizer that nobody distributed."""
    if hvd.size() == 1:
        return
    model = mlp(0)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    kept = Kept()
    check = hvd.callbacks.ConsistencyCheck(at_start=False)
    x, y = data(8, seed=hvd.rank())
    model.fit(
        x,
        y,
        batch_size=2,
        verbose=0,
        callbacks=[hvd.callbacks.Monitor(1, [kept], alarms=[]), check],
    )
    assert len(kept.of_steps) == (3 if hvd.rank() == 0 else 0)
    assert all(len(sample.ranks) == 1 for sample in kept.of_steps)


@long
def check_lookouts_and_hooks_that_fail_are_said_once() -> None:
    class Blind:
        def look(self, sample: Sample) -> Alarm | None:
            raise KeyError("no such figure")

    class Sees:
        def look(self, sample: Sample) -> Alarm | None:
            return Alarm("loss", "look.", sample.step)

    def refuse(alarm: Alarm) -> None:
        raise OSError("away")

    class Open:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def look(self, sample: Sample) -> Alarm | None:
            return None

    class Ends:
        def __call__(self, alarm: Alarm) -> None:
            """Takes all."""

        def end(self) -> None:
            raise OSError("no end")

    with pytest.raises(TypeError, match="Open can't be copied"):
        hvd.callbacks.Monitor(alarms=[Open()])
    with pytest.raises(TypeError, match="which is no lookout"):
        hvd.callbacks.Monitor(alarms=[Sample])
    with heard() as texts:
        ends = hvd.callbacks.Monitor(1, [], alarms=[], on_alarm=Ends())
        _model().fit(_rows(), verbose=0, callbacks=[ends])
    assert sum("Ends could not end: OSError: no end" in text for text in texts) == (hvd.rank() == 0)
    kept = Kept()
    monitor = hvd.callbacks.Monitor(1, [kept], alarms=[Blind(), Sees()], on_alarm=refuse)
    with heard() as texts:
        _model().fit(_rows(), verbose=0, callbacks=[monitor])
    if hvd.rank() == 0:
        assert sum("Blind looks no more: KeyError" in text for text in texts) == 1, texts
        assert sum("refuse gets no more alarms: OSError: away" in text for text in texts) == 1
        assert len(kept.alarms) == 3


@long
def check_ranks_with_unequal_steps_end_with_the_error_about_them() -> None:
    """One has joined: Horovod answers for it with zeros."""
    if hvd.size() == 1:
        return
    rows = 12 if hvd.rank() == 0 else 16
    x, y = data(rows)

    def batches() -> Any:
        yield from zip(x.reshape(-1, 2, 6), y.reshape(-1, 2, 2), strict=True)

    with pytest.raises(hvd.HvdkitError, match=r"batches|steps"):
        _model().fit(batches(), verbose=0, callbacks=[hvd.callbacks.Monitor(1, [], alarms=[])])


@long
def check_a_second_monitor_tells_the_same() -> None:
    kept = Kept()
    second = hvd.callbacks.Monitor(2, [kept], alarms=[])
    third = hvd.callbacks.Monitor(3, [], alarms=[])
    first = monitored(_model(), _rows(7), every=2, callbacks=[second, third])
    if hvd.rank() == 0:
        assert [s.step for s in kept.of_steps] == [s.step for s in first.of_steps]
        for mine, theirs in zip(kept.of_steps, first.of_steps, strict=True):
            for name in ("gradient_norm", "loss"):
                assert mine.values.get(name) == theirs.values.get(name)
