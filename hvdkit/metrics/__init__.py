"""Logs over the rows of all ranks: metrics exactly, what is no metric on average."""
