"""Metrics: weighted means, task metrics, writers."""
