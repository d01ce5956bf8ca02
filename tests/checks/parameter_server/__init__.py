"""Some ranks hold the variables and update them, the others compute gradients: over MPI."""

MODULES = ("together", "apart", "ends", "spread", "refused")
