"""Training: resolves a config, updates the student, evaluates, and saves."""
