"""Experiments; kd/config has every field."""
