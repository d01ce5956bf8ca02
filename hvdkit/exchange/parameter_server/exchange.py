"""The exchange of a parameter server: what a rank is, and what it does with gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import (
    HvdkitError,
    ProcessSet,
    global_process_set,
    ops,
    require_initialized,
    topology,
)
from hvdkit.engine.alone import own_ranks
from hvdkit.engine.point_to_point import PointToPoint, why_impossible
from hvdkit.exchange.gradient import Gradient
from hvdkit.exchange.owners import Owners
from hvdkit.exchange.parameter_server.messages import Layout
from hvdkit.exchange.parameter_server.server import Server
from hvdkit.exchange.parameter_server.updates import Updates
from hvdkit.exchange.parameter_server.worker import Worker
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.mesh import current_mesh
from hvdkit.mesh.variable import path_of, raw, variable_key

_MESSAGES = "a parameter server sends weights"
# Older versions of Keras 3 have none; then nothing is an instance of it.
_STARTS_FROM_WEIGHTS = getattr(keras.optimizers, "ScheduleFreeAdamW", ())


@keras.saving.register_keras_serializable("hvdkit")
class ParameterServer:
    """Some ranks hold the variables and update them; the others compute gradients.

    The last `servers` ranks are servers, the others workers. A worker pulls the weights, computes
    gradients, and pushes them; the optimizer runs on the servers, which have its slots. All ranks
    run one script with one `fit`, in which a server serves until all workers are done:

    - Data from `hvd.shard` is divided over the workers.
    - An epoch is each worker's own, with its logs, its callbacks and its validation, on all of the
      validation data: nobody waits at its end.
    - A gradient is applied with the learning rate that its worker has at that step, of a schedule
      or by a callback, and counts as one update of the optimizer, such as Adam's.
    - `fit` returns on all ranks when the last worker is done. All ranks then have the weights of
      the servers, the mean of the workers' moving statistics, and the first worker's step and
      learning rate; servers are ranks like others again, for `evaluate`, `predict` and `save`.

    With a staleness of 0 the workers make each step together and the servers apply the mean of
    their gradients: synchronous training. Otherwise each worker's gradient is an update by itself,
    as that of one process with its batch size, so a learning rate is not multiplied by the number
    of workers. With a staleness of s a worker begins a step while it is at most s steps ahead of
    the slowest (stale synchronous parallel, Ho et al., 2013,
    https://papers.nips.cc/paper/4894-more-effective-distributed-ml-via-a-stale-synchronous-parallel-parameter-server);
    with None nobody waits (Dean et al., 2012,
    https://papers.nips.cc/paper/4687-large-scale-distributed-deep-networks).

    Each step of a worker sends the gradients' bytes to the servers and gets the weights' bytes from
    them. Variables are spread over servers by bytes, each as a whole. Clipping, weight decay and
    constraints happen on the servers.

    Args:
        servers: number of ranks that hold the variables.
        staleness: the largest lead, in steps, with which a worker begins a step; None for any.

    Attributes:
        servers: the ranks that hold the variables.
        workers: the ranks that train.

    Raises:
        ValueError: on every rank: no rank is left to train, or an argument is out of range.
        HvdkitError: on every rank: the job runs over Gloo, which has no messages between two ranks.
        NotImplementedError: on every rank, from `fit`: with `use_ema`, `ScheduleFreeAdamW`,
            `global_clipnorm` and several servers, several optimizers, a sharded model.

    Example:
        >>> exchange = hvd.exchange.ParameterServer(servers=1, staleness=4)
        >>> model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(), exchange=exchange))
        >>> model.fit(hvd.shard((x, y), batch_size=32), epochs=3)
    """

    def __init__(self, servers: int = 1, staleness: int | None = None) -> None:
        require_initialized("hvd.exchange.ParameterServer()")
        _require_possible(servers, staleness)
        size = topology.size()
        self.servers = list(range(size - servers, size))
        self.workers = list(range(size - servers))
        self.staleness = staleness
        self._variables: list[Any] = []
        self._owners: dict[int, int] = {}
        self._optimizer: Any = None
        self._is_open = False
        self._worker: Worker | None = None
        self._server: Server | None = None
        self._taken: dict[int, tf.Tensor] = {}

    @property
    def ranks(self) -> ProcessSet:
        """All ranks; in the steps of a `fit` this one, which then asks no other."""
        return own_ranks() or global_process_set

    @property
    def lead(self) -> int:
        """The largest lead with which this rank began a step of the last `fit`; 0 on a server."""
        return 0 if self._worker is None else self._worker.lead

    def build(self, variables: Sequence[Any]) -> Sequence[Tracked]:
        """Spread the variables over the servers.

        Raises:
            NotImplementedError: on every rank: it has been built with others.
            ValueError: on every rank: there are fewer variables than servers.
        """
        keys = [variable_key(variable) for variable in variables]
        if self._variables and keys != list(self._owners):
            raise NotImplementedError(
                "a ParameterServer is for one optimizer that updates all variables, not for "
                "several, nor for the parts of a MultiOptimizer: make one for each training."
            )
        if len(variables) < len(self.servers):
            raise ValueError(
                f"ParameterServer(servers={len(self.servers)}) for {len(variables)} variables: "
                "each server holds at least one."
            )
        numbers = Owners(len(self.servers)).give(Layout(variables).sizes)
        self._owners = dict(zip(keys, (self.servers[n] for n in numbers), strict=True))
        self._variables = list(variables)
        return [Tracked(variable, Role.WEIGHT, path_of(variable)) for variable in variables]

    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """The same ones; see `Exchange.gradients`. A worker's are pushed in `weights`.

        Raises:
            NotImplementedError: on every rank: this is not a step of a `fit`.
        """
        del name
        if not self._is_open:
            raise NotImplementedError(
                "with a ParameterServer the servers have to serve while the others train, which "
                "model.fit does: a loop of one's own with optimizer.apply goes with "
                "hvd.exchange.AllReduce."
            )
        if self._worker is not None:
            self._taken = {
                variable_key(variable): tf.convert_to_tensor(gradient)
                for variable, gradient in zip(variables, gradients, strict=True)
                if gradient is not None
            }
        return list(gradients)

    def weights(self, variables: Sequence[Any], iteration: Any) -> None:
        """Push the gradients and pull the weights, on a worker; see `Exchange.weights`."""
        del variables, iteration
        if self._worker is None:
            return
        taken, self._taken = self._taken, {}
        there = [key in taken for key in self._owners]
        pushed = [
            tf.cast(taken[key], variable.dtype)
            for key, variable in zip(self._owners, self._variables, strict=True)
            if key in taken
        ]
        new = tf.numpy_function(
            functools.partial(_step, self._worker, there),
            [tf.convert_to_tensor(self._optimizer.learning_rate), *pushed],
            [tf.as_dtype(variable.dtype) for variable in self._variables],
            name="hvdkit_parameter_server.step",
        )
        self._assign(new)

    def owned(self, variables: Sequence[Any]) -> list[Any]:
        """What this rank holds as a server; a worker owns nothing."""
        rank = topology.rank()
        return [v if self._owners.get(variable_key(v), rank) == rank else None for v in variables]

    def agreed_by(self) -> ProcessSet | None:
        """None: whether gradients are finite, a worker decides for itself."""
        return None

    def get_config(self) -> dict[str, Any]:
        """See `Exchange.get_config`."""
        return {"servers": len(self.servers), "staleness": self.staleness}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ParameterServer:
        """An exchange with the arguments of `get_config`."""
        return cls(**config)

    def share(self) -> tuple[int, int] | None:
        """See `OutOfStep.share`."""
        rank = topology.rank()
        return (rank, len(self.workers)) if rank in self.workers else None

    def begin(self, optimizer: Any) -> None:
        """See `OutOfStep.begin`."""
        self._require_right(optimizer)
        if optimizer is not self._optimizer:
            self._optimizer = optimizer
            self._connect()
        if self._worker is not None:
            self._worker.begin()
        self._is_open = True

    def start(self) -> None:
        """See `OutOfStep.start`."""
        assert self._worker is not None
        self._assign(self._worker.pull())

    def leave(self) -> None:
        """See `OutOfStep.leave`."""
        assert self._worker is not None
        self._worker.leave()

    def serve(self) -> None:
        """See `OutOfStep.serve`."""
        assert self._server is not None
        self._server.serve()

    def end(self) -> None:
        """See `OutOfStep.end`."""
        self._is_open = False
        owners = self._owners.values()
        for i, (variable, server) in enumerate(zip(self._variables, owners, strict=True)):
            value = ops.broadcast(
                tf.convert_to_tensor(raw(variable)),
                server,
                name=f"hvdkit_parameter_server.end{i}",
            )
            variable.assign(value)

    def _connect(self) -> None:
        messages = PointToPoint(global_process_set, _MESSAGES)
        owners = list(self._owners.values())
        held = [[i for i, o in enumerate(owners) if o == server] for server in self.servers]
        layouts = [Layout([self._variables[i] for i in numbers]) for numbers in held]
        if self.share() is not None:
            self._worker = Worker(messages, self.servers, held, layouts)
            return
        number = topology.rank() - self.servers[0]
        updates = Updates(self._optimizer, [self._variables[i] for i in held[number]])
        self._server = Server(messages, self.workers, updates, layouts[number], self.staleness)

    def _assign(self, values: Sequence[Any]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(tf.ensure_shape(value, variable.shape))

    def _require_right(self, optimizer: Any) -> None:
        kind = type(optimizer).__name__
        if optimizer.use_ema:
            raise NotImplementedError(
                f"{kind}(use_ema=True) averages weights after its updates, which happen on the "
                "servers of a ParameterServer, and each worker would have another average: leave "
                "use_ema out."
            )
        if isinstance(optimizer, _STARTS_FROM_WEIGHTS):
            raise NotImplementedError(
                f"{kind} has slots that start from the weights, and a server of a ParameterServer "
                "may get the weights to begin with after it has made its slots: use another "
                "optimizer, such as AdamW."
            )
        if optimizer.global_clipnorm and len(self.servers) > 1:
            raise NotImplementedError(
                f"{kind}(global_clipnorm=...) needs the norm of all gradients, and no server of "
                "ParameterServer(servers=...) has all: use one server, or clipnorm."
            )
        for variable in self._variables:
            if getattr(variable, "overwrite_with_gradient", False):
                raise NotImplementedError(
                    f"{path_of(variable)} is overwritten with its gradient (float8), which a "
                    "ParameterServer does not do: train with another dtype policy."
                )


def _step(worker: Worker, there: Sequence[bool], *arrays: Any) -> Any:
    rate, *gradients = arrays
    return worker.step(rate, there, *gradients)


def _require_possible(servers: int, staleness: int | None) -> None:
    size = topology.size()
    if isinstance(servers, bool) or not isinstance(servers, int) or servers < 1:
        raise ValueError(f"servers is a number of ranks above 0, not {servers!r}.")
    whole = not isinstance(staleness, bool) and isinstance(staleness, int)
    if staleness is not None and not (whole and staleness >= 0):
        raise ValueError(
            f"staleness is a number of steps, 0 or more, or None for any, not {staleness!r}."
        )
    if servers >= size:
        raise ValueError(
            f"ParameterServer(servers={servers}) leaves none of the {size} ranks of this job to "
            f"train: start at least {servers + 1} ranks."
        )
    if problem := why_impossible(_MESSAGES):
        raise HvdkitError(problem)
    mesh = current_mesh()
    if mesh is not None and mesh.is_model_parallel:
        raise NotImplementedError(
            f"a ParameterServer does not go with a sharded model ({mesh!r}): leave hvd.set_mesh "
            "out, or use hvd.exchange.AllReduce."
        )
