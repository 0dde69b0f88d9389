"""Reads users' data files."""
