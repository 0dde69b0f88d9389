"""Manages versions of a model: their files, reports and stages."""
