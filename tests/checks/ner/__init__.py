"""examples/ner.py: reading, the encoder, training and scores on ranks, and bad input."""

import sys

from launch import ROOT

MODULES = ("encoder", "reading", "scored", "trained", "refused")

sys.path.insert(0, str(ROOT / "examples"))
