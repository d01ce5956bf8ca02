"""Where figures go, from real ranks."""

MODULES = ("from_ranks", "keras_tensorboard")
