"""Weighted means, metric writers and progress."""
