"""Ranks that drift apart, moving statistics, steps that are not finite, seeds."""

MODULES = (
    "digests",
    "inventory",
    "at_start",
    "outside_variables",
    "own_weights",
    "during_training",
    "left_out",
    "moving_statistics",
    "nonfinite_steps",
    "nonfinite_policies",
    "seeds",
)
