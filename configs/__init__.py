"""Experiment configs; kd/config declares every field."""
