"""Every collective: every kind of value, every type, every option, on every number of ranks.

Nothing is imported here, since pytest's own process reads it.
"""

# In this order one job runs them; Horovod ends in the last.
MODULES = (
    "topology",
    "values",
    "dtypes",
    "operations",
    "sparse",
    "groups",
    "moving",
    "objects",
    "waiting",
    "process_sets",
    "graphs",
    "names",
    "signatures",
    "timeline",
    "shutdown",
)

# hvd.start_timeline works only in a job that was started with this.
ENVIRONMENT = {"HOROVOD_TIMELINE": "DYNAMIC"}
