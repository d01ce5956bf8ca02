"""`hvd.exchange.Hierarchical` on ranks of one host that are given groups, as if of several."""

MODULES = ("values", "between", "kept", "trained", "refused")
