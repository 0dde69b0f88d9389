"""Feeds, which supply each step's batch and targets; see feed.py."""
