"""`hvd.callbacks.Monitor` on real ranks: known figures, and trainings that stay the same."""

MODULES = ("figures", "norms", "split", "settings", "refused")
