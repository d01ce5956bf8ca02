"""Pipeline parallelism: one model cut into stages, which micro-batches run through."""
