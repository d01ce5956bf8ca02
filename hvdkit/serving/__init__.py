"""A server of exported models: the Open Inference Protocol over HTTP, one process a model."""
