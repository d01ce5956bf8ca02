"""One model over a pipeline of all ranks: it trains as the unsplit model does in one process."""

MODULES = (
    "messages",
    "training",
    "precision",
    "files",
    "built",
    "tied",
    "refusals",
    "measured",
)
