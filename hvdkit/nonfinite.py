"""What happens when gradients hold NaN or Inf: `hvd.DistributedOptimizer(..., nonfinite=...)`.

The reduced gradients are looked at, which are the same on all ranks, so all ranks decide alike
and nothing more is communicated. A step whose gradients are not finite changes nothing: no
weight, no variable of the optimizer, no step count; of accumulated gradients it drops those that
it would have applied. `fit` then asks one of the policies below what to do, and reports on rank 0
how many steps were left out in an epoch (`nonfinite_steps` in the logs). Without a policy NaN
goes into the weights, as in Keras.
"""

from hvdkit.optimizers.nonfinite_policy import Policy, Restore, Skip, Stop
from hvdkit.optimizers.nonfinite_policy import Skipped as Skipped  # what a policy of one's own gets

__all__ = ["Policy", "Restore", "Skip", "Stop"]
