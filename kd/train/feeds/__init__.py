"""Feeds: sources of a step's batch and targets; feed.py is the interface."""
