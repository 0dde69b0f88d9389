"""Losses as pure functions of arrays, and the objective that sums them."""
