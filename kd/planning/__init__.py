"""What a step costs: read out of compiled programs, and counted on paper."""
