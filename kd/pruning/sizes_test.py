"""Tests the limits of sizes and the legal values in messages."""

import dataclasses

import pytest

from kd.core import errors
from kd.models import families
from kd.pruning import pruning_cases
from kd.pruning import sizes

_270M = families.variant('270m', 'student.variant')
_4B = families.variant('4b', 'student.variant')


@pytest.mark.parametrize(
  ('model', 'changes', 'message'),
  [
    (
      _270M,
      dict(layers=19),
      r'student\.prune\.layers: found 19, but the model has 18; legal: 1 to 18',
    ),
    (
      _270M,
      dict(mlp_dim=2048, num_heads=4),
      r'student\.prune: removes nothing: .*mlp_dim 2048',
    ),
    # transformers rejects 640 / 3.
    (
      _270M,
      dict(num_heads=3),
      r'student\.prune\.num_heads: transformers refuses.* width, 640, is not '
      r'a multiple of the number of query heads, 3; legal: 1, 2, 4$',
    ),
    (
      _270M,
      dict(embed_dim=510),
      r'student\.prune\.embed_dim: transformers .*legal: a multiple of 4$',
    ),
    (
      _4B,
      dict(num_heads=6),
      r'student\.prune\.num_heads: found 6: .* each of the 4 .*legal: 4, 8$',
    ),
  ],
)
def test_invalid_sizes_are_refused(model, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    sizes.check(pruning_cases.request(**changes), model)


def test_a_fractional_query_scale_is_reported():
  source = dataclasses.replace(_4B, query_scale=10.5)
  asked = pruning_cases.request(mlp_dim=512)
  sizes.check(asked, source)  # The model itself already has the problem.
  lines = sizes.warnings(source, sizes.pruned(asked, source, range(34)))
  assert any('query scale, 10.5, is not an integer' in x for x in lines)


@pytest.mark.parametrize(
  ('changes', 'layers', 'words'),
  [
    (dict(mlp_dim=1536), range(18), []),
    (dict(mlp_dim=1600), range(18), ['mlp_dim: 1600 is not a multiple of 256']),
    (dict(mlp_dim=1500), range(18), ['of 32', 'of 256']),
    (dict(num_heads=2), range(18), ['a single key and value head']),
    (dict(layers=12), [*range(1, 12), 17], ['layer kinds llllglllllgg']),
    (dict(mlp_dim=512), range(18), ['53% of the parameters outside']),
  ],
)
def test_warnings_about_a_size_are_reported(changes, layers, words):
  asked = pruning_cases.request(**changes)
  config = sizes.pruned(asked, _270M, layers)
  lines = sizes.warnings(_270M, config) + sizes.kinds_warning(config)
  assert len(lines) == len(words), lines
  for line, word in zip(lines, words, strict=True):
    assert word in line
