"""Registers a loss term for each divergence of next-token distributions."""

import inspect

from kd.config.fields import losses
from kd.core import bounds
from kd.core import errors
from kd.core import types
from kd.losses import divergences
from kd.losses import terms


def _register(name):
  """Registers the term of a divergence, with the divergence's arguments."""
  own = divergences.DIVERGENCES.arguments(name)

  def build(context, *, temperature, clip, part, **arguments):
    terms.check_part(part)
    if not clip >= 0:
      raise errors.ConfigError('clip', f'found {clip}', legal='0 or more')
    schedule = terms.positive(temperature, 'temperature', context.steps)
    spec = {'name': name, **arguments}
    divergence = divergences.DIVERGENCES.build(spec, '')

    def per_token(
      inputs: terms.TokenInputs, values: terms.Values
    ) -> tuple[types.Array, tuple[types.Array, ...]]:
      """Computes T^k x divergence; the factor keeps the gradient's scale."""
      inputs.teacher.check(name, divergence, temperature)
      t = values['temperature']
      losses, finite = inputs.teacher.divergence(divergence, inputs.student, t)
      losses *= t**divergence.temperature_power
      return bounds.at_most(losses, clip) if clip else losses, finite

    return terms.LogitsLoss(
      per_token,
      part=part,
      needs_teacher=True,
      reads_labels=False,
      values={'temperature': schedule},
    )

  keyword = inspect.Parameter.KEYWORD_ONLY
  common = [
    inspect.Parameter(key, keyword, annotation=field)
    for key, field in losses.DIVERGENCE.items()
  ]
  build.__signature__ = inspect.Signature(
    [
      inspect.Parameter('context', inspect.Parameter.POSITIONAL_ONLY),
      *common,
      *own.values(),
    ]
  )
  terms.TERMS.register(name)(build)


divergences.DIVERGENCES.for_each(_register)
