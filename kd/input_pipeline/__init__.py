"""Rows: templates, packing, prepared files and their order."""
