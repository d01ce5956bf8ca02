"""One model over the devices of one process."""
