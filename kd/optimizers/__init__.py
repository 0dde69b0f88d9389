"""Optimizers, schedules and masks from the config."""
