"""Reads operations, memory and traffic from the text of compiled programs."""
