"""The sums of a benchmark against float64 numpy over whole softmaxes."""

import jax.numpy as jnp
import numpy as np

from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import eval_sums

_VOCAB = 40


def _softmax(hidden, table):
  logits = np.asarray(hidden, np.float64) @ table[:_VOCAB].T
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def test_detailed_sums_equal_those_of_whole_softmaxes():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  hidden, table = normal(2, 60, 5), normal(_VOCAB, 5)
  # Rows of padding, which the model lacks.
  teachers_hidden, teachers_table = normal(2, 60, 3), normal(_VOCAB + 4, 3)
  labels = rng.integers(0, _VOCAB, (2, 60)).astype(np.int32)
  weights = rng.uniform(0.5, 2, (2, 60)).astype(np.float32)
  weights[:, :2] = 0
  zeros = jnp.zeros((2, 60), jnp.int32)
  batch = types.Batch(
    tokens=zeros,
    targets=jnp.asarray(labels),
    positions=zeros,
    segment_ids=zeros,
    weights=jnp.asarray(weights),
    parts=zeros,
    row_id=zeros[:, 0],
  )
  teacher = dense_distributions.DenseTeacher(
    jnp.asarray(teachers_hidden), jnp.asarray(teachers_table), jnp.ones(())
  )
  targets = distributions.Targets(
    dense_distributions.DenseMixture((teacher,)), None
  )
  arguments = jnp.asarray(hidden), jnp.asarray(table), targets, batch
  got = eval_sums.by_row(*arguments, chunk_tokens=4, detailed=True)
  usual = eval_sums.by_row(*arguments, chunk_tokens=4)
  assert got.keys() - usual.keys() == {
    *('calibration', 'top5_agreement', 'acceptance')
  }
  with_tokens = eval_sums.by_row(*arguments, chunk_tokens=4, with_tokens=True)
  for name, values in usual.items():
    np.testing.assert_array_equal(got[name], values)
    np.testing.assert_array_equal(with_tokens[name], values)

  q = _softmax(hidden, table)
  p = _softmax(teachers_hidden, teachers_table)
  kl = np.where(weights > 0, (p * np.log(p / q)).sum(-1), np.nan)
  np.testing.assert_allclose(with_tokens['token_kl'], kl, rtol=1e-4)
  ranked = np.argsort(-q, axis=-1)[..., :5]
  near = (ranked == p.argmax(-1)[..., None]).any(-1)
  assert 0 < (near * weights).sum() < weights.sum()
  acceptance = 1 - 0.5 * np.abs(p - q).sum(-1)
  for name, values in {
    'top5_agreement': near,
    'acceptance': acceptance,
  }.items():
    expected = (values * weights.astype(np.float64)).sum(-1)
    np.testing.assert_allclose(got[name], expected, rtol=1e-5)

  confidence, hits = q.max(-1), q.argmax(-1) == labels
  expected = np.zeros(got['calibration'].shape)
  for row, column in np.ndindex(*weights.shape):
    place = min(int(confidence[row, column] * 15), 14)
    values = np.array([1, confidence[row, column], hits[row, column]])
    expected[row, place] += weights[row, column] * values
  np.testing.assert_allclose(got['calibration'], expected, rtol=1e-5, atol=1e-7)
