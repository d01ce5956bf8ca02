"""What is sent in place of a gradient's own numbers."""
