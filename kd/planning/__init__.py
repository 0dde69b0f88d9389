"""Plans memory and time of a run, from compiled programs or by formula."""
