"""How the ranks of one optimizer stay together: what is sent for each gradient, and how."""
