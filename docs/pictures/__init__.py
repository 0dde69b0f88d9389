"""Programs that draw the guides' pictures."""
