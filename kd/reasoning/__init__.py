"""Checks worked solutions; samples chains and searches trees of thought."""
