"""Chooses the scheme of each matrix from the config."""

from collections.abc import Mapping
from typing import Any

from kd.core import errors
from kd.models import families
from kd.models import family
from kd.models import layer_stack
from kd.models import tensors as tensors_lib
from kd.quantization import quantized_model
from kd.quantization import schemes

NONE = 'none'


def scheme_of(
  config: family.Config, fields: Mapping[str, Any], path: str
) -> quantized_model.SchemeOf:
  """Returns the schemes of a model's matrices.

  Args:
    config: the model.
    fields: `weights`, the scheme of layers' matrices; optionally `tables`, the
      scheme of the embedding and the head; and `rules`, by name, the first
      match of which takes precedence.
    path: the fields' config path, for messages.

  Returns:
    The keys of each matrix and the name of its scheme; matrices without a
    scheme are left out.

  Raises:
    ConfigError: a rule matches no matrix or only some layers of a scan, or a
      matrix can't be divided into blocks.
  """
  rules = sorted(fields['rules'].items())
  if not rules and fields['weights'] == fields.get('tables', NONE) == NONE:
    return ()
  tensors = families.of(config).tensors(config)
  chosen, used, every = [], set(), []
  for matrix in tensors_lib.matrices(tensors):
    field = 'weights' if matrix.layer_matrix else 'tables'
    params = layer_stack.paths(config, matrix.path)
    every += params
    names = {_rule(rules, param) for param in params}
    used |= names
    if len(names) > 1:
      raise errors.ConfigError(
        f'{path}.rules',
        f'found {_joined(names)} for layers of one scan, which must share a '
        f'rule: {", ".join(params)}',
        legal='rules that match all of these, or none',
      )
    (rule,) = names
    where = f'{path}.{field}'
    if rule is not None:
      where = f'{path}.rules.{rule}.scheme'
    scheme = fields.get(field, NONE)
    if rule is not None:
      scheme = fields['rules'][rule]['scheme']
    if scheme != NONE:
      _check(matrix, params[0], scheme, where)
      chosen.append((matrix.path, scheme))
  for rule, entry in rules:
    if rule not in used:
      raise errors.ConfigError(
        f'{path}.rules.{rule}.match',
        f'{entry["match"]!r} matches no matrix, or only matrices that earlier '
        'rules match',
        legal='a regular expression of paths such as ' + errors.first_of(every),
        nearest=errors.nearest(entry['match'], every),
      )
  return tuple(chosen)


def _joined(names):
  """Returns quoted names of rules; None stands for no rule."""
  quoted = map(repr, sorted(names - {None}))
  return ' and '.join([*quoted, 'no rule'] if None in names else quoted)


def _rule(rules, param):
  """Returns the name of the first rule that matches a parameter, or None."""
  matching = (
    name for name, entry in rules if layer_stack.matches(entry['match'], param)
  )
  return next(matching, None)


def _check(matrix, param, scheme, where):
  problem = schemes.SCHEMES[scheme].check(matrix.num_inputs)
  if problem:
    raise errors.ConfigError(
      where,
      f'found {scheme!r}, but {param} has {problem}',
      legal='a scheme per channel, such as int8 or int4',
    )
