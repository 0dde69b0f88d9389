"""Gemma 3 in flax.linen."""
