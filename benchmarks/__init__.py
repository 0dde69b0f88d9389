"""What a step costs here, beside other projects in the same run."""
