"""Monitors a server: names of metrics, alarms and their dashboard."""
