"""Estimates the cost of programs and of a whole run."""
