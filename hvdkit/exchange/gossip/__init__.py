"""Nobody waits for all others: each rank mixes its weights with those of a few."""
