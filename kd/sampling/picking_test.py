"""Compares draws with a model's probabilities and sorted filters."""

import numpy as np
import pytest

from kd.sampling import engine_cases as cases
from kd.sampling import requests

_DRAWS = 3000
_FILTERS = {
  'plain': {},
  'hot': dict(temperature=1.7),
  'top_k': dict(top_k=6),
  'top_p': dict(top_p=0.8),
  'min_p': dict(min_p=0.1),
  'penalty': dict(repetition_penalty=2.5),
  'all': dict(
    temperature=2.0,
    top_k=12,
    top_p=0.9,
    min_p=0.05,
    repetition_penalty=1.3,
  ),
}


@pytest.fixture(name='params', scope='module')
def _params():
  return cases.strong_params()


def _probabilities(logits, prompt, how):
  """Returns the expected probability of each id, by sorting in float64."""
  logits = logits.astype(np.float64)
  seen = sorted(set(prompt))
  penalty = how.repetition_penalty
  logits[seen] *= np.where(logits[seen] > 0, 1 / penalty, penalty)
  p = np.exp((logits - logits.max()) / how.temperature)
  p /= p.sum()
  order = np.argsort(-p)
  ranked = p[order]
  if how.top_k:
    ranked[how.top_k :] = 0
  before = np.cumsum(ranked) - ranked
  ranked[before >= how.top_p * ranked.sum()] = 0
  ranked[ranked < how.min_p * ranked[0]] = 0
  p[order] = ranked / ranked.sum()
  return p


@pytest.mark.parametrize('name', list(_FILTERS))
def test_frequencies_pass_a_chi_square_test(name, params):
  how = cases.settings(
    **(dict(temperature=1.0, max_new_tokens=1) | _FILTERS[name])
  )
  (prompt,) = cases.prompts([10], seed=4)
  (found,) = cases.make(batch=256).generate(
    params, cases.asked([prompt], _DRAWS), how
  )
  counts = np.bincount([s.ids[0] for s in found], minlength=cases.VOCAB)
  wanted = _probabilities(cases.logits(params, prompt)[-1], prompt, how)
  assert not counts[wanted == 0].any()
  assert (wanted > 0.01).sum() >= 3  # The test is not trivial.
  # Ids that are expected fewer than five times are merged.
  rare = wanted * _DRAWS < 5
  pool = lambda x: np.append(x[~rare], x[rare].sum())
  counts, wanted = pool(counts), pool(wanted) * _DRAWS
  counts, wanted = counts[wanted > 0], wanted[wanted > 0]
  distance = ((counts - wanted) ** 2 / wanted).sum()
  free = len(wanted) - 1
  # Four standard deviations of a chi-square variable above its mean.
  assert distance < free + 4 * np.sqrt(2 * free)


def test_draws_depend_on_the_seed(params):
  how = cases.settings(temperature=1.0, max_new_tokens=6)
  engine = cases.make(batch=2)
  (prompt,) = cases.prompts([10])
  draw = lambda seed: (
    engine.generate(params, [requests.Request(prompt, seed, 1)], how)[0][0].ids
  )
  drawn = [draw(seed) for seed in (0, 1, 2**32, 2**63 - 1)]
  assert len(set(drawn)) == 4
  assert draw(2**32) == drawn[2]
