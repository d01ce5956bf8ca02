"""One model over four logical CPU devices of one process."""

MODULES = ("cutting", "layer_split", "splitting", "given_models", "divided")
ENVIRONMENT = {"CHECKS_CPU_DEVICES": "4"}
