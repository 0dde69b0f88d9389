"""Benchmarks of kd and of other projects, measured in the same run."""
