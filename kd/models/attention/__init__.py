"""Attention within rows: its mask, its kernels, and which of them is used."""
