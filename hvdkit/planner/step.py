"""The time of a step on a mesh: what is computed, what is waited for, and what jitters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from statistics import NormalDist

from hvdkit.planner.cluster import Cluster
from hvdkit.planner.fitted import FITTED, Fitted
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.layer_times import DeviceTimes, update
from hvdkit.planner.links import Network
from hvdkit.planner.transformer import Degrees
from hvdkit.planner.work import Model, Stage


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by what they are spent on.

    Attributes:
        compute: forward and backward passes of the slowest stage.
        tensor: sums over the tensor group that nothing hides.
        pipeline: sends between stages.
        bubble: a stage waits for others to begin and to end.
        data: exchange of the replicas that the backward pass does not hide.
        update: the optimizer, and what an exchange computes.
        jitter: all wait for the slowest.
    """

    compute: float
    tensor: float
    pipeline: float
    bubble: float
    data: float
    update: float
    jitter: float

    @property
    def total(self) -> float:
        """All of them."""
        return float(sum(getattr(self, each.name) for each in fields(self)))

    @property
    def exposed(self) -> float:
        """Communication that nothing hides."""
        return self.tensor + self.pipeline + self.data


@dataclass(frozen=True)
class Placing:
    """Where the ranks of a mesh's groups are: tensor innermost, as `hvd.Mesh` places them.

    Attributes:
        degrees: the mesh.
        per_host: ranks of a host.
    """

    degrees: Degrees
    per_host: int

    @property
    def hosts(self) -> int:
        """Hosts of the job."""
        return -(-self.degrees.ranks // self.per_host)

    def tensor_group(self) -> tuple[int, int, int]:
        """Its ranks on a host, its hosts, and ranks of a host that use its link at once."""
        return self._group(self.degrees.tensor, stride=1)

    def data_group(self) -> tuple[int, int, int]:
        """The same of replicas."""
        return self._group(self.degrees.data, self.degrees.pipeline * self.degrees.tensor)

    @property
    def pipeline_crosses(self) -> bool:
        """Whether a link of a pipeline goes to another host."""
        return self.degrees.pipeline * self.degrees.tensor > self.per_host

    def _group(self, size: int, stride: int) -> tuple[int, int, int]:
        here = max(1, min(size, self.per_host // stride))
        return here, -(-size // here), min(self.per_host, self.degrees.ranks)


def step_time(
    model: Model,
    cluster: Cluster,
    job: PlannedJob,
    degrees: Degrees,
    rows: int,
    fitted: Fitted = FITTED,
) -> StepTime:
    """Predict a step.

    Args:
        model: what is trained.
        cluster: on what.
        job: how.
        degrees: the mesh.
        rows: of a micro-batch.
        fitted: the numbers that no data sheet has.

    Example:
        >>> step_time(model, find_cluster("dgx-a100"), PlannedJob(512), Degrees(data=128), 4).total
    """
    device = cluster.device(degrees, job.share_rows)
    times = DeviceTimes(device, job.bits, fitted)
    network = cluster.network.reached(fitted.wire)
    placing = Placing(degrees, cluster.per_host)
    stages = model.stages(times, degrees, job, rows)
    count = job.batch // degrees.data // rows

    sums = [_sums(stage, network, placing, job, fitted) for stage in stages]
    busy = [stage.passes.both + s for stage, s in zip(stages, sums, strict=True)]
    slowest = max(range(len(stages)), key=busy.__getitem__)
    stage = stages[slowest]
    mean = sum(busy) / len(busy)
    bubble = mean * idle(degrees.pipeline, count, job.schedule.chunks)
    sends = _sends(stage, network, placing, job) * count
    data = max(_exchange(each, network, placing, job, fitted, count) for each in stages)
    updated = max(_update(times, each, degrees, job) for each in stages)
    quiet = busy[slowest] * count + bubble + sends + data + updated
    return StepTime(
        compute=stage.passes.both * count,
        tensor=sums[slowest] * count,
        pipeline=sends,
        bubble=bubble,
        data=data,
        update=updated,
        jitter=quiet * fitted.jitter * slowest_of(placing.hosts),
    )


def slowest_of(hosts: int) -> float:
    """How many standard deviations the slowest of some hosts is behind the mean, on average.

    Blom's approximation of the largest of k normal deviates (1958), within 0.03 of it.
    """
    return NormalDist().inv_cdf((hosts - 0.375) / (hosts + 0.25))


def idle(stages: int, micro_batches: int, chunks: int) -> float:
    """How long a stage idles, in passes of a micro-batch through all of it.

    (p - 1) / v; with fewer micro-batches than stages each of the v rounds takes p passes of a
    chunk, and more chunks do not help.
    """
    rounds = chunks * max(micro_batches, stages) + min(micro_batches, stages) - 1
    return rounds / chunks - micro_batches


def _sums(
    stage: Stage, network: Network, placing: Placing, job: PlannedJob, fitted: Fitted
) -> float:
    """Sums over the tensor group for a micro-batch."""
    if not stage.tensor_sums:
        return 0.0
    all_ = stage.tensor_sums * network.all_reduce(stage.sum_bytes, *placing.tensor_group())
    return all_ * (1 - fitted.overlap) if job.overlap_tensor else all_


def _sends(stage: Stage, network: Network, placing: Placing, job: PlannedJob) -> float:
    """An activation and its gradient, for each chunk, of a micro-batch."""
    degrees = placing.degrees
    if degrees.pipeline == 1:
        return 0.0
    sharing = min(degrees.tensor, placing.per_host)
    return (
        2 * job.schedule.chunks * network.send(stage.link_bytes, placing.pipeline_crosses, sharing)
    )


def _exchange(
    stage: Stage,
    network: Network,
    placing: Placing,
    job: PlannedJob,
    fitted: Fitted,
    count: int,
) -> float:
    """What the replicas' exchange adds to a step."""
    data, exchange = placing.degrees.data, job.exchange
    if data == 1:
        return 0.0
    group = placing.data_group()
    # hvdkit's pipelines exchange when all stages have ended.
    of_hvdkit = job.implementation.state_bytes is None
    hides = job.overlap and not (of_hvdkit and placing.degrees.pipeline > 1)
    hidden = fitted.overlap * stage.passes.backward if hides else 0.0
    if exchange.fully:
        # Weights are gathered for each pass, and gradients scattered, in what is computed with.
        size = stage.weights * job.bits / 8
        gathers = 3 * network.gather(size, *group)
        whole = count * gathers
        window = fitted.overlap * stage.passes.both * count if job.overlap else 0.0
        return max(whole - window, gathers / 3 * (1 - fitted.overlap))
    reduced, gathered = exchange.given(stage.weights, stage.matrices)
    of_number = job.weight_bits / 32
    if exchange.sharded:
        scatter = network.gather(reduced * of_number, *group)
        size = stage.weights * (job.bits if job.implementation.state_bytes else job.weight_bits) / 8
        gather = network.gather(size, *group)
        if job.overlap_tensor:
            gather = max(0.0, gather - fitted.overlap * stage.passes.forward)
        return network.exposed(scatter, hidden) + gather
    sent = network.all_reduce(reduced * of_number, *group)
    sent += network.gather(gathered * data, *group)
    if exchange.every > 1:
        return sent / exchange.every
    return network.exposed(sent, hidden)


def _update(times: DeviceTimes, stage: Stage, degrees: Degrees, job: PlannedJob) -> float:
    share = 1 / degrees.data if job.exchange.sharded else 1.0
    passes = job.exchange.passes if degrees.data > 1 else 0.0
    compressed = times.stream(stage.weights * 4 * passes)
    return update(times, stage.weights, job, share) + compressed
