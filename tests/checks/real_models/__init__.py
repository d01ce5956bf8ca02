"""Models that people really train, beside plain Keras in one process with the global batch.

Each file is a job of its own, and holds the models and what is done with them; `training` has what
all of them share.
"""

ENVIRONMENT = {"CHECKS_CPU_DEVICES": "2"}
