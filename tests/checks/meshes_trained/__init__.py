"""Further optimizers and layers over each mesh."""

MODULES = ("optimizers",)
