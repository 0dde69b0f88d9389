"""Universal Logit Distillation (ULD, arXiv 2402.12030), as a baseline.

The probabilities of both models are compared in descending order, regardless of
their ids. This is the Wasserstein distance if all ids are equally far apart.
"""

from kd.core import types
from kd.losses import terms


@terms.TERMS.register('uld')
def uld(
  context: terms.Context, *, temperature: float, part: str
) -> terms.LogitsLoss:
  """Builds the L1 distance of sorted probabilities."""
  terms.check_part(part)
  schedule = terms.positive(temperature, 'temperature', context.steps)

  def per_token(
    inputs: terms.TokenInputs, values: terms.Values
  ) -> tuple[types.Array, tuple[types.Array, ...]]:
    t = values['temperature']
    return inputs.teacher.sorted_distance(inputs.student, t)

  return terms.LogitsLoss(
    per_token,
    part=part,
    needs_teacher=True,
    reads_labels=False,
    values={'temperature': schedule},
  )
