"""Weighted means, task metrics and metric writers."""
