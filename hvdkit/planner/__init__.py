"""What a training needs before it is started: memory of each rank, and the costs of layers."""
