"""Tests selections against all choices and by hand."""

import itertools

import numpy as np
import pytest

from kd.models.gemma3 import config as gemma3_config
from kd.pruning import pruning_cases
from kd.pruning import scores as scores_lib
from kd.pruning import selection
from kd.pruning import sizes

_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=6,
  mlp_dim=4,
  num_heads=6,
  num_kv_heads=2,
  head_dim=4,
  vocab_size=8,
  layer_kinds=gemma3_config.periodic_kinds(9, 3),
  window=4,
  context=16,
  query_scale=4.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)


def _scores(seed=0):
  rng = np.random.default_rng(seed)
  return scores_lib.Scores(
    _CONFIG,
    layers=rng.random(9),
    channels=rng.random((9, 4)),
    heads=rng.random((9, 6)),
    similarity=np.zeros((9, 2, 3, 3)),
    attention_width=rng.random((9, 6)),
    mlp_width=rng.random((9, 6)),
    facts={},
  )


@pytest.mark.parametrize('count', [1, 4, 8])
@pytest.mark.parametrize('pattern', [sizes.PERIODIC, sizes.ANY])
def test_layers_equal_a_search_over_all_choices(count, pattern):
  kinds = _CONFIG.layer_kinds
  for seed in range(5):
    scores = _scores(seed)
    choices = [
      c
      for c in itertools.combinations(range(9), count)
      if pattern == sizes.ANY or tuple(kinds[i] for i in c) == kinds[:count]
    ]
    best = max(choices, key=lambda c: scores.layers[list(c)].sum())
    asked = pruning_cases.request(layers=count, layer_pattern=pattern)
    assert selection.select(asked, scores, ()).layers == best


def test_widths_are_chosen_by_scores_of_the_kept_layers():
  scores = _scores()
  asked = pruning_cases.request(mlp_dim=3, embed_dim=2)
  chosen = selection.select(asked, scores, (1, 7))
  assert chosen.layers == (1, 7)
  for own, layer in zip(chosen.channels, (1, 7), strict=True):
    assert set(range(4)) - set(own) == {scores.channels[layer].argmin()}
  total = sum(
    getattr(scores, f'{name}_width')[layer]
    for name in ('attention', 'mlp')
    for layer in (1, 7)
  )
  assert set(chosen.width) == set(np.argsort(total)[-2:])
  assert (np.diff(chosen.width) > 0).all() and (np.diff(own) > 0).all()
  np.testing.assert_array_equal(chosen.heads, [range(6)] * 2)


@pytest.mark.parametrize(
  ('head_score', 'kept'),
  [
    # The two largest of each group: heads 0 to 2, and 3 to 5.
    (selection.ACTIVATION, [0, 1, 4, 5]),
    # Maps of 0 and 1 are alike, and of 3 and 5: the one with the smaller
    # activation goes.
    (selection.PATTERN, [0, 2, 4, 5]),
    # Head 2's activation is small, but head 1 is similar to head 0.
    (selection.BOTH, [0, 2, 4, 5]),
  ],
)
def test_heads_are_chosen_by_activation_or_similarity(head_score, kept):
  scores = _scores()
  scores.heads[:] = [3, 2, 1, 1, 2, 3]
  scores.similarity[:, 0, 0, 1] = scores.similarity[:, 0, 1, 0] = 0.9
  scores.similarity[:, 1, 0, 2] = scores.similarity[:, 1, 2, 0] = 0.9
  asked = pruning_cases.request(num_heads=4, head_score=head_score)
  chosen = selection.select(asked, scores, ())
  np.testing.assert_array_equal(chosen.heads, [kept] * 9)
