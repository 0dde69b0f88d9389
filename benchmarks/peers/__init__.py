"""Programs of other projects, each run by its own environment's Python."""
