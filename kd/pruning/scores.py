"""Importance scores of a model and their JSON file."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

import numpy as np

from kd.core import atomic_files
from kd.core import errors
from kd.core import json_files
from kd.core import paths
from kd.models import config_json
from kd.models import family
from kd.pruning import importance
from kd.pruning import sizes

FILE = 'scores.json'
_LEGAL = 'a file that --mode=prune wrote'
WEIGHTS = 'weights'  # Key of the digest of the model's parameters in `facts`.
_MODEL = 'model'


@dataclasses.dataclass(frozen=True)
class Scores:
  """Importance scores, float32 values; higher means more important.

  Attributes:
    config: the model that was measured.
    layers: [S], mean over tokens of 1 - cosine(layer input, layer output).
    channels: [S, F], MLP activations.
    heads: [S, N], activations of query heads.
    similarity: [S, G, N / G, N / G], mean over queries of the cosine of two
      heads' attention maps.
    attention_width: [S, D], output of the norm before attention.
    mlp_width: [S, D], output of the norm before the MLP.
    facts: the other fields of the file: rows, tokens, digests.
  """

  config: family.Config
  layers: np.ndarray
  channels: np.ndarray
  heads: np.ndarray
  similarity: np.ndarray
  attention_width: np.ndarray
  mlp_width: np.ndarray
  facts: Mapping[str, Any]


def _names():
  return [
    f.name
    for f in dataclasses.fields(Scores)
    if f.name not in ('config', 'facts')
  ]


def from_sums(
  config: family.Config,
  sums: Mapping[str, np.ndarray],
  facts: Mapping[str, Any],
) -> Scores:
  """Computes scores from the sums over rows; see importance."""
  wide = {name: np.asarray(value, np.float64) for name, value in sums.items()}
  tokens = float(wide.pop(importance.TOKENS))
  means = (importance.LAYERS, importance.SIMILARITY)
  # Rounded to float32, which the file stores exactly, so that a later run makes
  # the same selection.
  values = {
    name: np.float64(
      np.float32(value / tokens if name in means else np.sqrt(value))
    )
    for name, value in wide.items()
  }
  return Scores(config, **values, facts={**facts, 'tokens': int(tokens)})


def write(path: str, scores: Scores) -> None:
  """Writes the scores as JSON, with nine digits (exact for float32)."""
  values = {
    **scores.facts,
    _MODEL: config_json.to_json(scores.config),
    **{name: _rounded(getattr(scores, name)) for name in _names()},
  }
  # One line per field: indented lists would have a line per channel.
  lines = [
    f'{json.dumps(key)}: {json.dumps(value, allow_nan=False)}'
    for key, value in values.items()
  ]
  atomic_files.write_text(path, '{\n' + ',\n'.join(lines) + '\n}\n')


def _rounded(array):
  if array.ndim:
    return [_rounded(part) for part in array]
  return float(f'{array:.9g}')


def read(path: str, field: str) -> Scores:
  """Reads scores written by `write`.

  Args:
    path: path of the file.
    field: config field that contains the path, for messages.

  Raises:
    ConfigError: the file is missing or does not contain scores.
  """
  values = json_files.read(path, field)
  try:
    config = config_json.from_json(values.get(_MODEL), f'{path}: {_MODEL}')
  except errors.ConfigError as e:
    raise errors.ConfigError(field, str(e)) from e
  shapes = importance.shapes(config)
  arrays = {
    name: _array(values.get(name), shapes[name], f'{path}: {name}', field)
    for name in _names()
  }
  facts = {k: v for k, v in values.items() if k not in (_MODEL, *_names())}
  return Scores(config, **arrays, facts=facts)


def load(request: sizes.Request, source: family.Config) -> Scores:
  """Reads the scores given by a config's `student.prune`.

  Args:
    request: the sizes to keep.
    source: the model to prune.

  Raises:
    ConfigError: no file is given, it is damaged, or the scores are of another
      model.
  """
  if not request.scores:
    raise errors.ConfigError(
      sizes.SCORES,
      "found '', but student.prune selects parts by importance",
      legal=f'the {FILE} that --mode=prune wrote',
    )
  scores = read(paths.expand(request.scores), sizes.SCORES)
  _check_model(scores, source)
  return scores


def _array(value, shape, where, field):
  def fail(found):
    return errors.ConfigError(field, f'{where}: found {found}', legal=_LEGAL)

  try:
    array = np.asarray(value, np.float64)
  except (TypeError, ValueError) as e:
    raise fail(json_files.short(value)) from e
  if array.shape != shape:
    expected = ' x '.join(map(str, shape))
    raise fail(f'shape {array.shape}, but the model has {expected}')
  if not np.isfinite(array).all():
    raise fail('a number that is not finite')
  return np.float64(np.float32(array))


def _check_model(scores, config):
  """Raises ConfigError unless the scores are of a model of these sizes."""
  there, here = map(config_json.to_json, (scores.config, config))
  different = [
    f'{key} {there.get(key)!r} (the model: {here[key]!r})'
    for key in here
    # These two differ between copies of one model.
    if key not in ('vocab_size', 'context') and there.get(key) != here[key]
  ]
  if different:
    raise errors.ConfigError(
      sizes.SCORES,
      f'the scores are of another model: {", ".join(different)}',
      legal='scores of the model that student.init names',
    )
