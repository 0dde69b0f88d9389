"""Verdicts of a benchmark, as reports and registries write them."""

SHIP, UNCLEAR, WORSE = VERDICTS = 'ship', 'not distinguishable', 'worse'
