"""Reads the files that users bring as data."""
