"""Products by slices of positions are equal to those of whole rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.models import matmul

_NAMES = (('embed', 'mlp'), ('mlp', 'embed'))


def _function(x, into, out_of):
  return matmul.project(jnp.tanh(matmul.project(x, into)), out_of)


def _values(dtype, length):
  random = np.random.default_rng(0)
  draw = lambda *shape: random.normal(size=shape)
  x, gradient = draw(2, length, 8), draw(2, length, 8)
  weights = (draw(8, 16) / 3, draw(16, 8) / 4)
  return [jnp.asarray(v, dtype) for v in (x, gradient)], weights


@pytest.mark.parametrize('length', [16, 21])
def test_slices_equal_whole_rows(monkeypatch, length):
  """Three slices, the last one cut short in rows of 21 positions."""
  (x, gradient), weights = _values(jnp.float32, length)
  weights = tuple(jnp.asarray(w, jnp.float32) for w in weights)
  sliced = lambda x, *w: matmul.by_position(_function, x, w, _NAMES)
  out, pull = jax.vjp(_function, x, *weights)
  monkeypatch.setattr(matmul, '_SLICE', 8)
  assert matmul.slices(length) == -(-length // 8)
  found, pull_sliced = jax.vjp(jax.jit(sliced), x, *weights)
  for got, want in zip(
    (found, *pull_sliced(gradient)), (out, *pull(gradient)), strict=True
  ):
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_sums_over_slices_are_not_rounded(monkeypatch):
  """64 slices, the sum of which would stop growing in bfloat16."""
  monkeypatch.setattr(matmul, '_SLICE', 8)
  x = jnp.ones((1, 8 * 1024, 1), jnp.bfloat16)
  weight = jnp.ones((1, 1), jnp.float32)
  run = lambda w: matmul.by_position(
    matmul.project, x, (w,), (('embed', 'mlp'),)
  ).astype(jnp.float32)
  slope = jax.jit(jax.grad(lambda w: run(w).sum()))(weight)
  np.testing.assert_allclose(slope, 8 * 1024)


def test_intermediate_arrays_have_the_size_of_a_slice(monkeypatch):
  monkeypatch.setattr(matmul, '_SLICE', 64)
  wide = jax.ShapeDtypeStruct((4, 1024), jnp.float32)
  narrow = jax.ShapeDtypeStruct((1024, 4), jnp.float32)
  x = jax.ShapeDtypeStruct((1, 64 * 64, 4), jnp.float32)
  run = lambda x, *w: matmul.by_position(_function, x, w, _NAMES).sum()
  program = jax.jit(jax.grad(run, (0, 1, 2))).lower(x, wide, narrow).compile()
  whole = x.shape[1] * wide.shape[1] * 4
  assert program.memory_analysis().temp_size_in_bytes < whole / 4
