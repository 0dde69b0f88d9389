"""Teachers on a server, asked by HTTP for log-probabilities of given ids."""
