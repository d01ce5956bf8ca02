"""How ranks divide a model and its data: the mesh, and how variables lie over it."""
