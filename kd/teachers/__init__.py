"""Teachers: what they say about a batch, as types.Targets."""
