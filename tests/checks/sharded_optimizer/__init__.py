"""`hvd.exchange.Sharded` against the plain optimizer on one process, its bytes and its files."""

MODULES = ("rules", "settings", "slots", "kept", "trained", "refused")
