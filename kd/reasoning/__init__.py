"""Worked solutions: arithmetic in prose, chains and trees of thought."""
