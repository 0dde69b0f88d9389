"""Compares targets read from a cache's files with the teacher's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import types
from kd.input_pipeline import retry
from kd.teachers.cache import blockwise_topk
from kd.teachers.cache import compression
from kd.teachers.cache import manifest as manifest_lib
from kd.teachers.cache import reader
from kd.teachers.cache import scoring
from kd.teachers.cache import shard_writer
from kd.teachers.cache import shards

_ROWS, _LENGTH, _VOCAB = 4, 64, 90
_PATIENCE = retry.RetryPolicy(attempts=1, wait_s=0.0, timeout_s=1.0)


def _batch():
  numbers = np.zeros((_ROWS, _LENGTH), np.int32)
  return types.Batch(
    tokens=numbers,
    targets=numbers,
    positions=numbers + np.arange(_LENGTH, dtype=np.int32),
    segment_ids=numbers + 1,
    parts=numbers,
    weights=np.ones((_ROWS, _LENGTH), np.float32),
    row_id=np.arange(_ROWS, dtype=np.int32),
  )


def _through_files(folder, name, method, logits):
  """Writes the compressed logits [V] at every position, and reads them."""
  tokens = _ROWS * _LENGTH
  compressed = jax.jit(
    lambda x, keys: method.compress(
      compression.TokenOutputs(None, blockwise_topk.split(x), keys)
    )
  )(jnp.tile(logits, (tokens, 1)), jax.random.split(jax.random.key(3), tokens))
  grid = lambda x: np.asarray(x).reshape(_ROWS, _LENGTH, *x.shape[1:])
  zeros = np.zeros((_ROWS, _LENGTH), np.float32)
  scored = scoring.Scored(
    jax.tree.map(grid, compressed), *[zeros] * 4, zeros[..., None] == 0
  )
  arguments = {'draws': method.draws, 'logprobs': method.stored_as}
  arguments['temperature'] = method.temperature
  if method.exact:
    arguments['entries'] = method.exact
  request = {'method': {'name': name, **arguments}, 'vocab_size': _VOCAB}
  (shard,) = shards.plan(_ROWS, _ROWS)
  series = shard_writer.ShardWriter(
    str(folder),
    [shard],
    method,
    _VOCAB,
    ['a teacher'],
    manifest_lib.cache_digest(request),
  )
  batch = _batch()
  for row in range(_ROWS):
    series.add(batch, scored, row)
  manifest = {
    'request': request,
    'shards': [shards.facts(str(folder), shard)],
  }
  return reader.Cache(str(folder), manifest, _PATIENCE).read(batch)


@pytest.mark.parametrize('stored_as', ['uint8', 'float16'])
@pytest.mark.parametrize(
  'name, exact, draws, drawn_at',
  [
    ('stratified', 5, 8, 1.0),
    ('sampled', 0, 300, 1.0),
    ('stratified', 5, 8, 2.0),
  ],
)
def test_weights_of_drawn_ids_are_unbiased(
  name, exact, draws, drawn_at, stored_as, tmp_path
):
  logits = np.random.default_rng(0).normal(0, 2, _VOCAB).astype(np.float32)
  p = np.exp(logits.astype(np.float64))
  p /= p.sum()
  method = compression.METHODS.build(
    dict(name=name, draws=draws, logprobs=stored_as, temperature=drawn_at)
    | ({'entries': exact} if exact else {}),
    'method',
  )
  read = _through_files(tmp_path, name, method, logits)
  np.testing.assert_allclose(read.weights.sum(-1), 1.0, atol=1e-5)
  used = read.ids >= 0
  # Log-probabilities are rounded: float16 to 11 bits, uint8 to 255 levels.
  rounding = 0.05 if stored_as == 'uint8' else 0.01
  wanted = np.log(p)[read.ids[used]]
  np.testing.assert_allclose(read.logprobs[used], wanted, atol=rounding)

  p = p ** (1 / drawn_at)
  p /= p.sum()
  mean = np.zeros(_VOCAB)
  np.add.at(mean, read.ids[used], read.weights[used] / (_ROWS * _LENGTH))
  likely = np.argsort(-p)[:exact]
  np.testing.assert_allclose(mean[likely], p[likely], rtol=rounding)
  rest = np.delete(np.arange(_VOCAB), likely)
  # Each draw has an equal part of the drawn mass.
  each = p[rest].sum() / (draws * _ROWS * _LENGTH)
  error = np.abs(mean - p)[rest]
  assert (error < rounding * p[rest] + 5 * np.sqrt(each * p[rest]) + each).all()
