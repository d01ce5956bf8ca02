"""Workers of different speeds: who waits for whom, by counts of steps."""

from __future__ import annotations

import numpy as np
from checks.marks import long
from checks.parameter_server.small import BATCH, BeforeSteps, Traces, compiled, is_worker
from checks.reference import data, mlp
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import ParameterServer

STEPS = 8


def _fit(exchange: ParameterServer, before: BeforeSteps) -> None:
    x, y = data(STEPS * BATCH, seed=hvd.rank())
    model = compiled(mlp(hvd.rank()), exchange)
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[before])


@long
def check_nobody_waits_for_a_slow_worker() -> None:
    """The last worker does not begin before all others have begun their last step."""
    exchange, traces = ParameterServer(), Traces()
    slow, others = exchange.workers[-1], exchange.workers[:-1]

    def before(step: int) -> None:
        if hvd.rank() == slow and step == 0:
            for other in others:
                traces.wait_until(other, STEPS)
        traces.begin_step()

    callback = BeforeSteps(before)
    _fit(exchange, callback)
    assert callback.steps == (STEPS if is_worker(exchange) else 0)
    if hvd.rank() in others:
        assert exchange.lead == STEPS, exchange.lead


@long
def check_a_worker_is_never_further_ahead_than_it_may() -> None:
    """The slow worker begins a step only when the others are as far ahead as they may be."""
    for staleness in (2,) if hvd.size() == 3 else (1, 3):
        exchange, traces = ParameterServer(staleness=staleness), Traces()
        slow, others = exchange.workers[-1], exchange.workers[:-1]

        def before(
            step: int,
            traces: Traces = traces,
            staleness: int = staleness,
            slow: int = slow,
            others: list[int] = others,
        ) -> None:
            if hvd.rank() == slow:
                for other in others:
                    traces.wait_until(other, min(step + staleness + 1, STEPS))
            else:
                # What it has pushed, it has begun.
                assert step - traces.begun(slow) <= staleness, (step, traces.begun(slow))
            traces.begin_step()

        callback = BeforeSteps(before)
        _fit(exchange, callback)
        if hvd.rank() in others:
            assert callback.steps == STEPS
            assert exchange.lead == staleness, exchange.lead


@long
def check_it_learns_without_waiting_and_with_a_bound() -> None:
    for staleness in (None, 2):
        x, y = data(24 * BATCH)
        model = compiled(mlp(3), ParameterServer(staleness=staleness), optimizers.Adam(0.02))
        before = model.evaluate(x, y, verbose=0)
        model.fit(hvd.shard((x, y), BATCH), epochs=6, verbose=0)
        after = model.evaluate(x, y, verbose=0)
        assert after < before / 5, (before, after)
        assert np.isfinite(after)


@long
def check_each_gradient_has_the_rate_of_its_worker() -> None:
    """One worker trains with a rate of 0, so all that changes comes from the first one."""
    exchange = ParameterServer()
    x, y = data(STEPS * BATCH)
    alone = mlp(0)
    alone.compile(optimizers.SGD(0.1), "mse")
    alone.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)

    model = compiled(mlp(0), exchange, optimizers.SGD(0.1))
    if hvd.rank():
        model.optimizer.learning_rate = 0.0
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    for mine, theirs in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    assert float(model.optimizer.learning_rate) == np.float32(0.1)
    assert int(model.optimizer.iterations) == STEPS
