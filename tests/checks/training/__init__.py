"""Mixed precision, own steps, local variables, names between ranks, files, XLA, overlap."""

MODULES = (
    "mixed_precision",
    "own_steps",
    "unbuilt",
    "local_variables",
    "names",
    "saving",
    "xla",
    "refusals",
    "overlap",
)
