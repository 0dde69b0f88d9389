"""Names the causes of what went wrong in a run, from what it wrote."""
