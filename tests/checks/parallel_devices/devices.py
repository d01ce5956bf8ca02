"""The logical CPU devices that the ranks of these checks have."""

COUNT = 4
DEVICES = [f"CPU:{i}" for i in range(COUNT)]
