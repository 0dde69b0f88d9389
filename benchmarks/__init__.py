"""What a step costs here and in other projects, in the same run."""
