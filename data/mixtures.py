"""Registers the mixtures: tasks with their rates.

A task's rate is its share of the training data in examples, rows or target
tokens, as chosen by the config's field `data.rates` (docs/data.md).
"""

import seqio

from kd.data import reference_prose  # noqa: F401, registers one more
from kd.data import scene_tasks  # noqa: F401, registers questions on pictures
from kd.data import tasks  # noqa: F401, registers the tasks
from kd.data import traces  # noqa: F401, registers more

# Two worked GSM8K examples for each of the other two: they teach reasoning, the
# bare answers keep the short form, and arithmetic makes the steps reliable.
seqio.MixtureRegistry.add(
  'cot_math_v1',
  [
    ('gsm8k_cot', 2.0),
    ('gsm8k_answer', 1.0),
    ('arithmetic_cot', 1.0),
  ],
)

# Label and rationale as two tasks for each question (arXiv 2305.02301).
seqio.MixtureRegistry.add(
  'step_by_step_v1', [('traces_label', 1.0), ('traces_rationale', 1.0)]
)

# Text that resembles pretraining data, in addition to the target task.
seqio.MixtureRegistry.add(
  'gsm8k_and_prose', [('gsm8k_cot', 1.0), ('reference_prose', 1.0)]
)
