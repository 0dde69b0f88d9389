"""The Qwen3 family, dense text models."""
