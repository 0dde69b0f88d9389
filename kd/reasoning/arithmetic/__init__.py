"""Arithmetic in prose: numbers, answers and steps, read and checked exactly."""
