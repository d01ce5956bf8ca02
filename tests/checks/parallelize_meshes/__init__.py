"""`hvd.parallelize` on four ranks: meshes of more than one axis, and real pipelines."""

MODULES = ("meshes",)
