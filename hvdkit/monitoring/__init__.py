"""What a job does, in figures: where they come from, and where they go."""
