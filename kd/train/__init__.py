"""Resolving a config, the update step, and the loop around it."""
