"""Arguments of divergences at, near and beyond their limits."""

import jax
import numpy as np
import pytest

from kd.core import errors
from kd.losses import divergences


def build(spec):
  return divergences.DIVERGENCES.build(spec, 'losses.kd')


def values_and_slopes(spec, *logits):
  """Contributions and derivatives by log q, float64 [..., V], from logits."""
  integrand = build(spec).integrand

  def total(log_q, log_p):
    parts = integrand(log_p, log_q)
    return parts.sum(), parts

  log_q, log_p = (jax.nn.log_softmax(x) for x in logits)
  slope, value = jax.jit(jax.grad(total, has_aux=True))(log_q, log_p)
  return np.asarray(value, np.float64), np.asarray(slope, np.float64)


LIMITS = [
  (dict(name='alpha_beta', alpha=1, beta=0), dict(name='forward_kl'), 1),
  (dict(name='alpha_beta', alpha=0, beta=1), dict(name='reverse_kl'), 1),
  (dict(name='alpha_beta', alpha=1, beta=1e-6), dict(name='forward_kl'), 1),
  (dict(name='alpha_beta', alpha=1e-6, beta=1), dict(name='reverse_kl'), 1),
  (dict(name='jensen_shannon', beta=1e-6), dict(name='forward_kl'), 1e-6),
  (dict(name='jensen_shannon', beta=1 - 1e-6), dict(name='reverse_kl'), 1e-6),
  (dict(name='skewed_forward_kl', skew=0), dict(name='forward_kl'), 1),
  (dict(name='skewed_reverse_kl', skew=0), dict(name='reverse_kl'), 1),
  (dict(name='skewed_forward_kl', skew=1e-7), dict(name='forward_kl'), 1),
  (dict(name='skewed_reverse_kl', skew=1e-7), dict(name='reverse_kl'), 1),
]


@pytest.mark.parametrize('spec,limit,factor', LIMITS)
def test_arguments_near_limits_give_the_limiting_divergence(
  spec, limit, factor
):
  rows = np.random.default_rng(2).normal(size=(2, 64, 11))
  got = values_and_slopes(spec, *rows)
  expected = values_and_slopes(limit, *rows)
  for value, of_limit in zip(got, expected):
    np.testing.assert_allclose(value / factor, of_limit, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
  'spec',
  [
    dict(name='jensen_shannon', beta=1e-60),
    dict(name='jensen_shannon', beta=1 - 1e-16),
    dict(name='skewed_forward_kl', skew=1e-60),
    dict(name='skewed_reverse_kl', skew=1 - 1e-16),
    dict(name='alpha_beta', alpha=1e-60, beta=1),
    dict(name='alpha_beta', alpha=1, beta=1e-60),
    dict(name='adaptive_kl', head_mass=1 - 1e-16),
  ],
  ids=str,
)
def test_arguments_rounded_to_their_limit_by_float32(spec):
  rows = np.random.default_rng(0).normal(size=(2, 64, 11))
  rows *= np.logspace(-2, 4, 64)[:, None]
  rows[0, :, 1] = rows[1, :, 2] = rows[:, :, 3] = -np.inf
  value, slope = values_and_slopes(spec, *rows)
  assert np.isfinite(value).all() and (value >= 0).all()
  assert np.isfinite(slope).all()


@pytest.mark.parametrize(
  'spec,words',
  [
    (dict(name='jensen_shannon', beta=0), ('losses.kd.beta', 'forward_kl')),
    (dict(name='jensen_shannon', beta=1.0), ('losses.kd.beta', 'reverse_kl')),
    (dict(name='alpha_beta', alpha=np.inf, beta=1), ('losses.kd.alpha', 'inf')),
    (dict(name='skewed_forward_kl', skew=1), ('losses.kd.skew', 'below 1')),
    (dict(name='skewed_reverse_kl', skew=-0.1), ('losses.kd.skew', '-0.1')),
    (dict(name='alpha_beta', alpha=-1, beta=2), ('losses.kd.alpha', '-1')),
    (dict(name='alpha_beta', alpha=1, beta=-1), ('losses.kd.beta', '-1')),
    (dict(name='alpha_beta', alpha=0, beta=0), ('losses.kd.beta', 'above 0')),
    (dict(name='alpha_beta', alpha='1', beta=0), ('losses.kd.alpha', "'1'")),
    (dict(name='adaptive_kl', head_mass=1), ('losses.kd.head_mass', 'below 1')),
    (dict(name='jensen_shanon', beta=0.5), ('kd.name', 'jensen_shannon')),
  ],
)
def test_wrong_arguments_are_named(spec, words):
  with pytest.raises(errors.ConfigError) as e:
    build(spec)
  assert all(word in str(e.value) for word in words), str(e.value)
