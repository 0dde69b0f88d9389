"""Compiled programs read from their text: operations, memory, traffic."""
