"""Resolves a config to models, tokenizer, objective, devices and workdir."""
