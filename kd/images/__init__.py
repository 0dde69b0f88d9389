"""Reads, checks, decodes and resizes images."""
