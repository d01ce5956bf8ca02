"""What all ranks must hold alike, and how that is found out."""
