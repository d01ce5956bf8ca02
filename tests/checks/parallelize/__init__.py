"""`hvd.parallelize`: ordinary models over real ranks, beside themselves in one process."""

MODULES = ("plain", "composites", "refused", "files", "adapters")
