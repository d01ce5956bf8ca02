"""Layers divided over a tensor group: as the layers of Keras in one process, to float tolerance."""

MODULES = ("conjugates", "layers", "attention", "vocabulary", "training", "patching")
