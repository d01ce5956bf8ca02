"""`hvdkit plan`: what a training would do on some cluster, before it is started."""
