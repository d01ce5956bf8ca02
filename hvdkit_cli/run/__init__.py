"""`hvdkit run`: find the launcher, start the ranks, watch over them, and tell the truth at the end.

Each rank's script is the child of a small process (`rank.py`), which gives what it prints and how
it ends to the supervisor (`attempt.py`) over a connection of its own (`wire.py`). What a launcher
says about its ranks counts for nothing: the job has succeeded when every rank has said so.
"""
