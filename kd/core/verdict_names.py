"""The verdicts of a benchmark in reports and registries."""

SHIP, UNCLEAR, WORSE = VERDICTS = 'ship', 'not distinguishable', 'worse'
