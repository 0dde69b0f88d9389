"""Teachers that score batches, and caches of their targets."""
