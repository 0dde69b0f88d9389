"""Prepares rows: templates, tokenizers, packing, files and their order."""
