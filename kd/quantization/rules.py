"""Chooses the scheme of each matrix from the config."""

from collections.abc import Mapping
import itertools
import re
from typing import Any

from kd.core import errors
from kd.models import families
from kd.models import family
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
    fields: `weights`, the scheme of layers' matrices; `tables`, that of the
      embedding and the head, if there is such a field; and `rules`, by name,
      whose first `match` decides instead.
    path: the fields' config path, for messages.

  Returns:
    The name of the scheme by the matrix's keys; matrices without a scheme are
    left out.

  Raises:
    ConfigError: a rule matches no matrix or some layers of a scan alone, or a
      matrix can't be divided into blocks.
  """
  matrices = tensors_lib.matrices(families.of(config).tensors(config))
  rules = sorted(fields['rules'].items())
  chosen, used = [], set()
  for matrix in matrices:
    field = 'weights' if matrix.layer_matrix else 'tables'
    names = {_rule(rules, param) for param in matrix.params}
    used |= names
    if len(names) > 1:
      raise errors.ConfigError(
        f'{path}.rules',
        f'{" and ".join(sorted(map(str, names)))} share layers of one scan: '
        + ', '.join(matrix.params),
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
      _check(matrix, scheme, where)
      chosen.append((matrix.path, scheme))
  for rule, entry in rules:
    if rule not in used:
      params = [param for matrix in matrices for param in matrix.params]
      raise errors.ConfigError(
        f'{path}.rules.{rule}.match',
        f'{entry["match"]!r} matches no matrix that no earlier rule matches',
        legal='a regular expression of paths such as '
        + errors.first_of(params),
        nearest=errors.nearest(entry['match'], params),
      )
  return tuple(chosen)


def _rule(rules, param):
  """Returns the name of the first rule that matches a parameter, or None."""
  beginnings = list(itertools.accumulate(param.split('.'), '{}.{}'.format))
  for name, entry in rules:
    if any(re.fullmatch(entry['match'], one) for one in beginnings):
      return name
  return None


def _check(matrix, scheme, where):
  problem = schemes.SCHEMES[scheme].check(matrix.num_inputs)
  if problem:
    raise errors.ConfigError(
      where,
      f'{scheme!r}, and {matrix.params[0]} has {problem}',
      legal='a scheme per channel, such as int8 or int4',
    )
