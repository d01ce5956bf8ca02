"""Elastic training where no rank dies; those that do are in tests/elastic_jobs."""

MODULES = ("state", "callbacks", "running")
