"""Seconds of the layers of a Transformer on a device, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.planner.devices import Device
from hvdkit.planner.fitted import Fitted
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.transformer import TransformerShape

# Numbers that the operations of Keras's optimizers read and write for a weight, by their slots:
# SGD; with momentum; AdamW. A slot more has about as many as each of AdamW's.
_KERAS_UPDATES = (5, 12, 37)
_KERAS_SLOT = 9


@dataclass(frozen=True)
class Passes:
    """Seconds of a forward and of a backward pass, with what that computes again."""

    forward: float
    backward: float

    @property
    def both(self) -> float:
        """Of both."""
        return self.forward + self.backward

    def times(self, count: float) -> Passes:
        """Of several."""
        return Passes(self.forward * count, self.backward * count)

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class DeviceTimes:
    """How long a device takes for what layers consist of.

    Attributes:
        device: the device.
        bits: of the numbers that are computed with.
        fitted: the shares of its rates that are reached, where it does not tell.
    """

    device: Device
    bits: int
    fitted: Fitted

    def product(self, m: float, n: float, k: float, count: float = 1) -> float:
        """Seconds of `count` matrix products of [m, k] and [k, n] in one operation.

        As long as the computation takes, or the operands on their way through memory: thin
        products, such as those of attention's heads, wait for memory.
        """
        rate = self.device.rate(self.bits).of_product(2 * m * n * k)
        moved = (m * k + k * n + m * n) * self.bits / 8
        return count * max(2 * m * n * k / rate, moved / self._bandwidth) + self._operation

    def elements(self, moved: float, operations: float = 0) -> float:
        """Seconds of operations on single elements, which move some bytes."""
        rate = self.device.elements or self._bandwidth
        return moved / rate + operations * self._operation

    def stream(self, moved: float) -> float:
        """Seconds of bytes on their way through memory, with little to compute for each."""
        return moved / self._bandwidth

    @property
    def _bandwidth(self) -> float:
        """Of memory; what is measured is what is reached."""
        measured = self.device.elements is not None
        return self.device.bandwidth * (1 if measured else self.fitted.memory)

    @property
    def _operation(self) -> float:
        return self.fitted.operation if self.device.operation is None else self.device.operation


def layer(
    times: DeviceTimes, shape: TransformerShape, rows: int, tensor: int, job: PlannedJob
) -> Passes:
    """Seconds of a layer for a micro-batch, without what is sent."""
    tokens, width = rows * shape.context, shape.width
    made = job.implementation
    products = (
        times.product(tokens, 3 * width / tensor, width)
        + times.product(tokens, width, width / tensor)
        + times.product(tokens, 4 * width / tensor, width)
        + times.product(tokens, width, 4 * width / tensor)
    )
    attention = _attention(times, shape, rows, tensor, job)
    scores = shape.heads * shape.context**2 * rows / tensor
    attention_elements = times.elements(made.scores * scores)
    whole = made.whole / (tensor if job.sequence_parallel else 1)
    elements = times.elements(tokens * width * (whole + made.divided / tensor), made.operations)
    forward = products + attention + attention_elements + elements
    backward = 2 * (products + attention_elements + elements)
    backward += attention * (2.5 if made.flash else 2)  # flash computes the scores once more
    if job.recompute == "full":
        backward += forward
    elif job.recompute == "selective":
        backward += attention + attention_elements
    return Passes(forward, backward)


def head(
    times: DeviceTimes, shape: TransformerShape, rows: int, tensor: int, job: PlannedJob
) -> Passes:
    """Seconds of the logits and the loss for a micro-batch."""
    tokens = rows * shape.context
    products = times.product(tokens, shape.vocabulary / tensor, shape.width)
    logits = tokens * shape.vocabulary / tensor
    # Written, read as 32 bits for the loss; its gradient is written and read.
    elements = times.elements(logits * (job.bits / 8 + 4), 4)
    return Passes(products + elements, 2 * (products + elements))


def update(times: DeviceTimes, weights: float, job: PlannedJob, share: float = 1.0) -> float:
    """Seconds of the optimizer's update.

    A fused one reads and writes weights, gradients and slots once; Keras's reads and writes
    numbers in each of its operations.
    """
    copy = 2 if job.bits < job.weight_bits else 0
    if job.implementation.state_bytes is None:
        slots = job.optimizer_slots
        more = max(0, slots - len(_KERAS_UPDATES) + 1)
        numbers = _KERAS_UPDATES[slots - more] + more * _KERAS_SLOT
        return times.stream(weights * share * (4 * numbers + copy))
    of_weight = 4 + 8 + 8 * job.optimizer_slots  # gradient; weight; each slot
    return times.elements(weights * share * (of_weight + copy))


def _attention(
    times: DeviceTimes, shape: TransformerShape, rows: int, tensor: int, job: PlannedJob
) -> float:
    """Scores, and values by scores: a product of each head."""
    context, size = shape.context, shape.width / shape.heads
    count = rows * shape.heads / tensor
    if not job.implementation.flash:
        return times.product(context, context, size, count) + times.product(
            context, size, context, count
        )
    # Half of the scores are hidden by the causal mask.
    first = job.implementation.name == "flash-2023"
    share = times.fitted.flash_of_2023 if first else times.fitted.flash
    rate = times.device.rate(times.bits).attainable * share
    return count * 2 * context**2 * size / rate + times.fitted.operation
