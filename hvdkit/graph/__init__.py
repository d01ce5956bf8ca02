"""Keras models as graphs of layers: cut, balanced, flattened and built anew."""
