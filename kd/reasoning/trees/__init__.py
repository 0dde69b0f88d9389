"""Trees of thought: problems, search, and training data from paths."""
