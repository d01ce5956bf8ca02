"""Models in the formats of other runtimes: SavedModel, ONNX and LiteRT."""
