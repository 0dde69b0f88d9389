"""Tests files of scores: round trips, and errors for damaged ones."""

import json

import numpy as np
import pytest

from kd.core import errors
from kd.models import families
from kd.pruning import importance
from kd.pruning import pruning_cases
from kd.pruning import scores as scores_lib

_NANO = families.variant('nano', 'student.variant')


@pytest.fixture
def path(tmp_path):
  """A file of scores."""
  rng = np.random.default_rng(0)
  sums = {
    name: rng.random(shape, np.float32)
    for name, shape in importance.shapes(_NANO).items()
  }
  sums[importance.TOKENS] = np.float32(8)
  scores = scores_lib.from_sums(_NANO, sums, {'rows': 3})
  np.testing.assert_allclose(scores.layers, sums['layers'] / 8, rtol=1e-6)
  np.testing.assert_allclose(scores.heads**2, sums['heads'], rtol=1e-6)
  path = str(tmp_path / scores_lib.FILE)
  scores_lib.write(path, scores)
  back = scores_lib.read(path, 'field')
  assert back.config == _NANO and back.facts == {'rows': 3, 'tokens': 8}
  for name in ('layers', 'channels', 'heads', 'similarity', 'mlp_width'):
    np.testing.assert_array_equal(getattr(back, name), getattr(scores, name))
  return path


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('heads', [[1.0]], r'heads: found shape \(1, 1\), but the model has 6 x 2'),
    ('layers', None, 'layers: found'),
    ('channels', 'x', "channels: found 'x'"),
    ('layers', [1, 2, 3, 4, 5, [6]], r'layers: found \[1, 2, 3, 4, 5, \[6\]\]'),
    ('model', {'family': 'gemma3'}, 'model: found'),
  ],
)
def test_a_damaged_file_is_named(path, key, value, message):
  with open(path, encoding='utf-8') as f:
    values = json.load(f)
  with open(path, 'w', encoding='utf-8') as f:
    json.dump({**values, key: value}, f)
  with pytest.raises(errors.ConfigError, match=f'^field: {path}: {message}'):
    scores_lib.read(path, 'field')


def test_scores_of_another_model_are_refused(path):
  asked = pruning_cases.request(mlp_dim=32, scores=path)
  scores_lib.load(asked, _NANO)
  other = families.variant('tiny', 'student.variant')
  with pytest.raises(errors.ConfigError, match='scores: .*embed_dim 64 .*128'):
    scores_lib.load(asked, other)
  with pytest.raises(errors.ConfigError, match=r"student\.prune\.scores.*''"):
    scores_lib.load(pruning_cases.request(mlp_dim=32), _NANO)
