"""`hvd.parallelize`: ordinary models over real ranks, beside themselves in one process."""

MODULES = ("plain", "sides", "planned", "composites", "refused", "files", "adapters")
