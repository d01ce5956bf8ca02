"""What data can be given to hvd.shard and `fit`, what is refused, and what is said of it."""

MODULES = (
    "datasets",
    "pydatasets",
    "kinds",
    "shapes",
    "memory",
    "orders",
    "contents",
    "plain_data",
    "misuse",
)
