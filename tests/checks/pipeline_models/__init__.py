"""Models, options and precisions of a pipeline, beside the unsplit model in one process."""

MODULES = ("options", "architectures", "state", "precision", "memory", "resuming")
