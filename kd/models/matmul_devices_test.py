"""Slices of rows that are split over devices."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.models import matmul
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules

_NAMES = (('embed', 'mlp'), ('mlp', 'embed'))


def _function(x, into, out_of):
  return matmul.project(jnp.tanh(matmul.project(x, into)), out_of)


def test_slices_of_split_rows_equal_whole_rows(monkeypatch):
  """Each device computes 12 positions in slices of 5, the last one padded."""
  random = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
  x, gradient = draw(2, 24, 8), draw(2, 24, 8)
  weights = draw(8, 16) / 3, draw(16, 8) / 4
  out, pull = jax.vjp(_function, x, *weights)
  monkeypatch.setattr(matmul, '_SLICE', 5)
  mesh = mesh_lib.make(
    {'data': 1, 'fsdp': 2, 'tensor': 2, 'sequence': 2}, jax.devices()
  )
  sliced = lambda x, *w: matmul.by_position(_function, x, w, _NAMES)
  with rules.active(mesh):
    assert matmul.slices(24) == 3
    found, pull_sliced = jax.vjp(jax.jit(sliced), x, *weights)
    made = (found, *pull_sliced(gradient))
  for got, want in zip(made, (out, *pull(gradient)), strict=True):
    np.testing.assert_allclose(got, want, atol=3e-6)
