"""Structured pruning: importance scores, selection and slicing of weights."""
