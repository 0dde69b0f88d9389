"""Watching a server: names of its metrics, alarms, and their dashboard."""
