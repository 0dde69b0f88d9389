"""Orbax checkpoints, and import and export of weights in other formats."""
