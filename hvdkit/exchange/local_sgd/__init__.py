"""Fewer rounds: each rank updates alone, and every few updates the ranks meet."""
