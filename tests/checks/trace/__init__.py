"""Traces of several ranks."""

MODULES = ("fits", "loops", "refused", "clocks")
# So that Horovod's own view is there.
ENVIRONMENT = {"HOROVOD_TIMELINE": "DYNAMIC"}
