"""Dropped rationales: which tokens remain, and how many on average."""

import numpy as np
import pytest

from kd.core import errors
from kd.core import types
from kd.input_pipeline import packing
from kd.input_pipeline import rationale_dropping

PAD = 0
LENGTH = 40


def _example(rng, prompt, work, answer):
  ids = rng.integers(3, 100, prompt + work + answer)
  parts = [0] * prompt + [types.RATIONALE] * work + [0] * answer
  weights = [0.0] * prompt + [1.0] * (work + answer)
  return packing.Example(ids, np.array(parts), np.array(weights), 0)


EXAMPLES = [
  _example(np.random.default_rng(i), *sizes)
  for i, sizes in enumerate([(4, 10, 2), (3, 0, 4), (5, 7, 3)])
]
ROW = packing.fill(EXAMPLES, LENGTH, PAD)


class _Fixed:
  def __init__(self, value):
    self._value = value

  def random(self):
    return self._value


def _by_hand(fraction, u):
  """Returns a row packed from examples that were shortened before packing."""
  shorter = []
  for e in EXAMPLES:
    work = [i for i, part in enumerate(e.parts) if part == types.RATIONALE]
    keep = np.ones(len(e.ids), bool)
    keep[work[: int(fraction * len(work) + u)]] = False
    shorter.append(
      packing.Example(e.ids[keep], e.parts[keep], e.weights[keep], 0)
    )
  return packing.fill(shorter, LENGTH, PAD)


@pytest.mark.parametrize('fraction', [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize('u', [0.0, 0.7])
def test_dropping_equals_examples_shortened_before_packing(fraction, u):
  found = rationale_dropping.shorten(ROW, fraction, _Fixed(u), PAD)
  wanted = _by_hand(fraction, u)
  for name in packing.FIELDS:
    np.testing.assert_array_equal(found[name], wanted[name], name)
  left = (found['parts'] == types.RATIONALE).sum()
  assert (left == 0) == (fraction == 1.0)
  # All tokens that are not part of a rationale remain.
  assert (found['weights'].sum() - left) == 2 + 4 + 3


def _rows(step, numbers):
  count = len(list(numbers))
  fields = {name: np.stack([ROW[name]] * count) for name in packing.FIELDS}
  return types.Batch(**fields, row_id=np.full(count, step, np.int32))


def test_dropping_depends_only_on_seed_and_step():
  fraction = lambda step: step / 100
  rows = rationale_dropping.Shortened(_rows, fraction, 3, PAD)
  whole = rows(37, range(6))
  # Other hosts read other rows of the same batch.
  part = rows(37, [4, 1])
  for name in packing.FIELDS:
    np.testing.assert_array_equal(
      getattr(part, name), getattr(whole, name)[[4, 1]]
    )
  assert (whole.row_id == 37).all()
  # Equal rows of a batch are rounded independently.
  assert len({row.tobytes() for row in whole.tokens}) > 1
  other = rationale_dropping.Shortened(_rows, fraction, 4, PAD)(37, range(6))
  assert (other.tokens != whole.tokens).any()
  many = rationale_dropping.Shortened(_rows, lambda step: 0.25, 0, PAD)
  left = [(many(s, [0]).parts == types.RATIONALE).sum() for s in range(2000)]
  assert np.mean(left) == pytest.approx(0.75 * 17, abs=0.05)


def test_the_share_grows_from_none_to_all():
  spec = {
    'drop_fraction': dict(
      name='linear', begin=0.0, end=1.0, first_step=10, last_step=20
    )
  }
  fraction = rationale_dropping.build(spec, 'data.rationale', 30)
  rows = rationale_dropping.Shortened(_rows, fraction, 0, PAD)
  for step in (0, 10):
    np.testing.assert_array_equal(rows(step, [0]).tokens[0], ROW['tokens'])
  for step in (20, 29):
    assert not (rows(step, [0]).parts == types.RATIONALE).any()
  assert rationale_dropping.build({'drop_fraction': 0.0}, 'x', 30) is None


@pytest.mark.parametrize(
  'spec, words',
  [
    (
      {'drop_fraction': 1.5},
      'data.rationale.drop_fraction: found 1.5; legal: 0 to 1',
    ),
    ({'drop_fraction': -0.1}, 'found -0.1'),
    ({'drop_fracton': 0.1}, "did you mean 'drop_fraction'"),
    ({}, 'data.rationale.drop_fraction: missing'),
    ({'drop_fraction': 'all'}, 'a number, or a schedule'),
  ],
)
def test_wrong_shares_are_named(spec, words):
  with pytest.raises(errors.ConfigError, match=words):
    rationale_dropping.build(spec, 'data.rationale', 30)
