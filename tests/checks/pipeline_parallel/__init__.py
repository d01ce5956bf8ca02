"""One model over a pipeline of all ranks: it trains as the unsplit model does in one process."""

MODULES = (
    "messages",
    "training",
    "architectures",
    "state",
    "precision",
    "files",
    "refusals",
    "measured",
)
