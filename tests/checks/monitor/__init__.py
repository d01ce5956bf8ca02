"""`hvd.callbacks.Monitor` on real ranks: known figures, and trainings that stay the same."""

MODULES = ("figures", "split", "settings", "refused")
