"""A monitored model of which each rank holds a shard, or a stage."""

MODULES = ("trained",)
