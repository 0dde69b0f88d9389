"""Training: updates the student, evaluates it, and saves checkpoints."""
