"""The fields of a config's `reasoning`: what is legal, what they amount to."""

import dataclasses

import ml_collections

from kd.core import errors
from kd.reasoning import prompting
from kd.reasoning import selection
from kd.sampling import fields

MODELS = ('student', 'teacher')
_LEAST = dict(samples=1, together=1, shots=0)


def check(reasoning: ml_collections.ConfigDict) -> None:
  """Refuses what is illegal in a config's `reasoning`.

  Raises:
    ConfigError: names the first field.
  """
  for name, legal in (('model', MODELS), ('style', prompting.STYLES)):
    if reasoning[name] not in legal:
      raise errors.unknown(f'reasoning.{name}', 'value', reasoning[name], legal)
  for name, least in _LEAST.items():
    if reasoning[name] < least:
      raise errors.ConfigError(
        f'reasoning.{name}',
        f'found {reasoning[name]}',
        legal=f'{least} or more',
      )
  if reasoning.count < -1 or not reasoning.count:
    raise errors.ConfigError(
      'reasoning.count',
      f'found {reasoning.count}',
      legal='-1 (all), or above 0',
    )
  if '{question}' not in reasoning.form:
    raise errors.ConfigError(
      'reasoning.form',
      f'found {reasoning.form!r}',
      legal="text with '{question}'",
    )
  fields.check(reasoning, 'reasoning')
  selection.check(rules_of(reasoning))


def rules_of(reasoning: ml_collections.ConfigDict) -> selection.Rules:
  """What traces must be."""
  names = [field.name for field in dataclasses.fields(selection.Rules)]
  return selection.Rules(**{name: reasoning[name] for name in names})
