"""Fewer bytes with error feedback: what is kept and lost, where it converges, what is refused."""

MODULES = ("invariants", "convergence", "skipped", "kept", "refused", "adasum")
