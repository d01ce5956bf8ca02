"""Mixed precision, steps of one's own, local variables, saved files, XLA's limits, overlap."""

MODULES = (
    "mixed_precision",
    "own_steps",
    "unbuilt",
    "local_variables",
    "saving",
    "xla",
    "refusals",
    "overlap",
)
