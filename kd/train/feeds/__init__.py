"""Feeds: where a training step's batch and targets come from, one per file."""
