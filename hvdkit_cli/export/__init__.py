"""`hvdkit export`: a model in the format of another runtime, compared with Keras."""
