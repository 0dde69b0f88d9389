"""Bounds at sizes at which XLA's CPU kernels for maxima drop NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import bounds


@pytest.mark.parametrize('rows', [1, 512])
def test_nan_is_kept_and_numbers_are_bounded(rows):
  row = [np.nan, -np.inf, -3.0, 0.5, 7.0, np.inf]
  x = jnp.tile(jnp.array(row), (rows, 50))
  # As in a mixture of teachers, where jnp.maximum returns the bound for NaN.
  mixed = lambda y: jax.nn.logsumexp(jnp.stack([y, y]), axis=0) - jnp.log(2.0)
  least = jax.jit(lambda y: bounds.at_least(mixed(y), -1.0))(x)
  most = jax.jit(lambda y: bounds.at_most(mixed(y), 1.0))(x)
  expected = np.tile(row, (rows, 50))
  np.testing.assert_allclose(least, np.maximum(expected, -1.0), rtol=1e-6)
  np.testing.assert_allclose(most, np.minimum(expected, 1.0), rtol=1e-6)
