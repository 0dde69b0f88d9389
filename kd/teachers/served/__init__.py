"""Teachers on a server that returns log-probabilities of given ids by HTTP."""
