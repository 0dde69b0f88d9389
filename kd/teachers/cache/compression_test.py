"""Compares the expectation over all possible draws with float64 numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.losses import divergences
from kd.teachers.cache import compression

_V, _DRAWS = 7, 2
_DIVERGENCES = {
  name: divergences.DIVERGENCES.build({'name': name}, '')
  for name in ('forward_kl', 'reverse_kl')
}


def _log_softmax(x):
  x = np.asarray(x, np.float64)
  return x - np.log(np.exp(x).sum())


def _expected(log_p, log_q, temperature):
  """Returns the divergences and their gradients by the student's logits."""
  p, q, d = np.exp(log_p), np.exp(log_q), log_q - log_p
  reverse = (q * d).sum()
  return {
    'forward_kl': (-(p * d).sum(), (q - p) / temperature),
    'reverse_kl': (reverse, q * (d - reverse) / temperature),
  }


def _loss(divergence, temperature, student, targets):
  return targets.divergence(divergence, student, temperature)[0]


def _every_draw(log_p, exact, drawn_at):
  """Returns all outcomes of the draws as one Compressed, with probabilities."""
  likely = np.argsort(-log_p)[:exact]
  others = np.setdiff1d(np.arange(_V), likely)
  power = np.exp(log_p[others] / drawn_at)
  chance = dict(zip(others, power / power.sum(), strict=True))
  columns, probabilities = [], []
  for drawn in itertools.product(others, repeat=_DRAWS):
    ids, counts = np.unique(drawn, return_counts=True)
    ids, counts = [*likely, *ids], [0] * exact + [*counts]
    order = np.argsort(ids)
    empty = exact + _DRAWS - len(ids)
    columns.append(
      (
        [*np.array(ids)[order], *[-1] * empty],
        [*log_p[np.array(ids)[order]], *[-np.inf] * empty],
        [*np.array(counts)[order], *[0] * empty],
      )
    )
    probabilities.append(np.prod([chance[i] for i in drawn]))
  ids, logprobs, counts = map(np.array, zip(*columns, strict=True))
  full = np.full(len(columns), 1.0, np.float32)
  compressed = compression.Compressed(
    ids.astype(np.int32),
    logprobs.astype(np.float32),
    counts.astype(np.int32),
    full * np.float32(np.log(np.exp(log_p[others]).sum())) if exact else None,
    None,
    full * np.float32(np.log(power.sum())) if drawn_at != 1 else None,
  )
  return compressed, np.array(probabilities)


@pytest.mark.parametrize('drawn_at', [1.0, 2.5, 0.6])
@pytest.mark.parametrize('exact', [0, 2])
def test_draws_are_unbiased_at_their_temperature_and_at_1(exact, drawn_at):
  rng = np.random.default_rng(3)
  teacher, student = rng.normal(0, 2, (2, _V))
  name = 'stratified' if exact else 'sampled'
  method = compression.Method(
    name, 'float16', exact + _DRAWS, 1.0, _DRAWS, drawn_at
  )
  compressed, probabilities = _every_draw(
    _log_softmax(teacher), exact, drawn_at
  )
  assert probabilities.sum() == pytest.approx(1)
  targets = method.sparse(compressed)
  for temperature in {1.0, drawn_at}:
    log_p, log_q = (_log_softmax(x / temperature) for x in (teacher, student))
    for kind, (value, gradient) in _expected(log_p, log_q, temperature).items():
      loss = functools.partial(_loss, _DIVERGENCES[kind], temperature)
      both = jax.vmap(jax.value_and_grad(loss), (None, 0))
      values, gradients = both(jnp.asarray(student, jnp.float32), targets)
      mean = probabilities @ np.asarray(values, np.float64)
      np.testing.assert_allclose(mean, value, 2e-5)
      mean = probabilities @ np.asarray(gradients, np.float64)
      np.testing.assert_allclose(mean, gradient, 1e-4, 2e-6)
      if kind == 'forward_kl' and not exact and temperature == drawn_at:
        # The bound of docs/cache.md.
        variance = probabilities @ np.square(values - value)
        spread = np.exp(log_p) @ np.square(log_p - log_q - value)
        np.testing.assert_allclose(variance, spread / _DRAWS, 1e-4)
  entropy = lambda t: t.entropy()[0]
  log_p = _log_softmax(teacher)
  found = probabilities @ np.asarray(jax.vmap(entropy)(targets), np.float64)
  np.testing.assert_allclose(found, -np.exp(log_p) @ log_p, 2e-5)
