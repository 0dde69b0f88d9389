"""Chains and trees of thought: proposed, verified, voted on, written."""
