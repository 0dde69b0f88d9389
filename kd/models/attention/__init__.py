"""Attention within rows: its kernels, and the choice between them."""
