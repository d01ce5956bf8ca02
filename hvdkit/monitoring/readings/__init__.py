"""What the machine tells of this process: memory, energy, and how fast it could compute."""
