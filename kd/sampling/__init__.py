"""Decoding with a KV cache, and the files of prompts that it answers."""
