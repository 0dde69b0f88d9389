"""Gradients of a chunk's logits equal plain products in float64."""

import jax
import numpy as np
import pytest

from kd.losses import chunks


@pytest.mark.parametrize('vocab_size', [50, 8192, 20001])
def test_gradients_equal_whole_products(vocab_size):
  random = np.random.default_rng(0)
  draw = lambda *shape: random.standard_normal(shape)
  d_logits, hidden = draw(3, vocab_size), draw(3, 4)
  unembedding, before = draw(vocab_size, 4), draw(vocab_size, 4)
  single = [
    x.astype(np.float32) for x in (d_logits, hidden, unembedding, before)
  ]
  d_hidden, total = jax.jit(chunks.pull_back)(*single)
  scale = vocab_size**0.5
  np.testing.assert_allclose(
    d_hidden / scale, d_logits @ unembedding / scale, atol=3e-6
  )
  np.testing.assert_allclose(total, before + d_logits.T @ hidden, atol=3e-6)
  alone, none = jax.jit(chunks.pull_back)(*single[:3], None)
  np.testing.assert_allclose(alone / scale, d_hidden / scale, atol=3e-6)
  assert none is None
