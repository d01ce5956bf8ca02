"""The logical CPU devices that the ranks of these checks have."""

DEVICES = ["CPU:0", "CPU:1"]
