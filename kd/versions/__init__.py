"""Versions of a model: their files, their reports and their stages."""
