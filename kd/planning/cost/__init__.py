"""Costs of programs: by formula, per program, and summed up for a run."""
