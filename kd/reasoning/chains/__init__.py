"""Samples chains of thought, checks them and selects training data."""
