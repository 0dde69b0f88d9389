"""Reads numbers, answers and arithmetic steps in prose, and checks them."""
