"""Chains of thought: asked for, sampled, voted on, selected, written."""
