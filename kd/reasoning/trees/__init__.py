"""Searches trees of thought and writes training data from them."""
