"""Held-out quality: likelihood, agreement with the teacher, answers."""
