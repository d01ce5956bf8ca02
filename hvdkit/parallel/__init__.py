"""One model over several devices and ranks."""
