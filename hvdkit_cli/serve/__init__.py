"""The command `hvdkit serve`."""
