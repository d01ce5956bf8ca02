"""Distillation, pruning and quantization on real ranks."""

MODULES = ("distilling", "students", "pruning", "shrinking", "quantizing", "refused")
