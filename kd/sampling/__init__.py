"""Samples answers with a KV cache, and reads and writes prompts and answers."""
