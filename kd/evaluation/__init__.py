"""Evaluation: likelihood, agreement with the teacher, answers, intervals."""
