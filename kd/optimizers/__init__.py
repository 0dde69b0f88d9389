"""Builds optimizers, parameter groups and schedules from the config."""
