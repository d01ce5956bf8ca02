"""examples/ner.py: reading, the encoder, training and scores on ranks, and bad input."""

MODULES = ("encoder", "reading", "scored", "trained", "refused")
