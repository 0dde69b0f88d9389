"""The mixtures: tasks with the rates at which their rows are drawn."""

import seqio

from data import tasks  # noqa: F401, registers the tasks

# Two worked GSM8K rows for each of the others: those carry the reasoning, the
# bare answers keep the short form known, and arithmetic steadies the steps.
seqio.MixtureRegistry.add(
  'cot_math_v1',
  [
    ('gsm8k_cot', 2.0),
    ('gsm8k_answer', 1.0),
    ('arithmetic_cot', 1.0),
  ],
)
