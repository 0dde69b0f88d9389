"""Benchmarks of a model: quality, retention, cost, and a verdict."""
