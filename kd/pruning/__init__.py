"""Structured pruning: importance of layers, heads and channels, and slices."""
