"""Weights and activations in few bits: schemes, and models that use them."""
