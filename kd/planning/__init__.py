"""Plans a run's memory and time, from compiled programs or by formula."""
