"""Compares optimizers and schedules with formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd.config import base
from kd.core import errors
from kd.optimizers import optimizer_cases
from kd.optimizers import optimizers

STEPS = 100


def build(spec, steps=STEPS):
  return optimizers.build(spec.to_dict(), steps)


@pytest.mark.parametrize(
  'name,arguments,expected',
  [
    (
      'warmup_cosine',
      dict(final=0.1),
      lambda k: 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (k - 10) / 90)),
    ),
    ('warmup_linear', dict(final=0.1), lambda k: 1 - 0.9 * (k - 10) / 90),
    ('constant', {}, lambda k: 1.0),
    ('inverse_sqrt', {}, lambda k: (10 / k) ** 0.5),
  ],
)
def test_schedules(name, arguments, expected):
  lr = base.schedule(name, peak=1.0, warmup_steps=10, **arguments)
  _, rate = build(base.adamw(lr))
  for k in range(10):
    np.testing.assert_allclose(rate(k), k / 10, atol=1e-6)
  for k in range(10, STEPS + 1):
    np.testing.assert_allclose(rate(k), expected(k), rtol=1e-5)


def test_adamw_with_clipping_and_mask():
  lr = base.schedule('constant', peak=0.1, warmup_steps=0)
  optimizer, _ = build(base.adamw(lr, weight_decay=0.5, clip_norm=1.0))
  params = {'w': jnp.array([1.0, 2.0]), 'norm': {'scale': jnp.array([3.0])}}
  grads = {'w': jnp.array([30.0, 0.0]), 'norm': {'scale': jnp.array([40.0])}}
  state = optimizer.init(params)
  w = np.array([1.0, 2.0, 3.0])
  m = v = np.zeros(3)
  for t in (1, 2, 3):
    updates, state = optimizer.update(grads, state, params, finite=True)
    params = jax.tree.map(jnp.add, params, updates)
    g = np.array([30.0, 0.0, 40.0]) / 50.0  # its norm is 50, cut to 1
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    w = w - 0.1 * (step + 0.5 * w * np.array([1, 1, 0]))
  np.testing.assert_allclose(params['w'], w[:2], rtol=1e-5)
  np.testing.assert_allclose(params['norm']['scale'], w[2:], rtol=1e-5)


@pytest.mark.parametrize(
  'build_spec',
  [base.adamw, base.adafactor, base.lion, base.muon, base.sgd],
)
def test_nonfinite_updates_change_nothing(build_spec):
  lr = base.schedule('constant', peak=0.1, warmup_steps=0)
  groups = optimizer_cases.groups()
  optimizer, _ = optimizers.build(build_spec(lr).to_dict(), STEPS, groups)
  rng = np.random.default_rng(0)
  params, good = optimizer_cases.random(rng), optimizer_cases.random(rng)
  bad = jax.tree.map(lambda x: x * np.float32(np.nan), good)
  update = jax.jit(optimizer.update)
  updates, state = update(good, optimizer.init(params), params, finite=True)
  assert all(x.any() for x in jax.tree.leaves(updates))
  updates, same = update(bad, state, params, finite=False)
  jax.tree.map(np.testing.assert_array_equal, same, state)
  assert not any(x.any() for x in jax.tree.leaves(updates))


def test_adamw_equals_optax():
  lr = base.schedule('warmup_cosine', peak=0.1, warmup_steps=3, final=0.0)
  spec = base.adamw(lr, weight_decay=0.1, clip_norm=0.0)
  optimizer, rate = build(spec)
  theirs = optax.adamw(
    rate, b1=spec.b1, b2=spec.b2, eps=spec.epsilon, weight_decay=0.1
  )
  rng = np.random.default_rng(0)
  params = other = {'w': jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)}
  state, other_state = optimizer.init(params), theirs.init(other)
  for _ in range(6):
    g = {'w': jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)}
    updates, state = optimizer.update(g, state, params, finite=True)
    params = optax.apply_updates(params, updates)
    updates, other_state = theirs.update(g, other_state, other)
    other = optax.apply_updates(other, updates)
  np.testing.assert_allclose(params['w'], other['w'], rtol=1e-6)


def test_adafactor_first_update():
  # Shazeer & Stern, algorithm 4, first step: b2 is 0, so the factored second
  # moment is the outer product of row and column means over the whole mean.
  lr = base.schedule('constant', peak=0.1, warmup_steps=0)
  optimizer, _ = build(
    base.adafactor(lr, clip_norm=0.0, scale_by_parameter=False)
  )
  rng = np.random.default_rng(0)
  g = rng.normal(size=(128, 130))
  params = {'w': jnp.zeros((128, 130))}
  updates, _ = optimizer.update(
    {'w': jnp.asarray(g, jnp.float32)},
    optimizer.init(params),
    params,
    finite=True,
  )
  square = g * g
  moment = np.outer(square.mean(1), square.mean(0)) / square.mean()
  step = g / np.sqrt(moment)
  step /= max(1.0, np.sqrt((step * step).mean()))
  np.testing.assert_allclose(updates['w'], -0.1 * step, rtol=1e-4)


@pytest.mark.parametrize(
  'change,words',
  [
    (lambda o: o.update(name='adamv'), ('optimizer.name', 'adamw')),
    (lambda o: o.update(b1=1.0), ('optimizer.b1', '[0, 1)')),
    (lambda o: o.update(clip_norm=-1.0), ('optimizer.clip_norm',)),
    (lambda o: o.update(momentum=1.0), ('optimizer.momentum', 'b1')),
    (
      lambda o: o.lr.update(name='warmup_cosin'),
      ('optimizer.lr.name', 'warmup_cosine'),
    ),
    (lambda o: o.lr.update(peek=1.0), ('optimizer.lr.peek', 'peak')),
    (lambda o: o.lr.update(peak=-1.0), ('optimizer.lr.peak', '0 or more')),
    (
      lambda o: o.lr.update(warmup_steps=100),
      ('optimizer.lr.warmup_steps', 'fewer than 100'),
    ),
  ],
)
def test_wrong_settings_are_named(change, words):
  spec = base.adamw(
    base.schedule('warmup_cosine', peak=1.0, warmup_steps=10, final=0.0)
  )
  change(spec)
  with pytest.raises(errors.ConfigError) as e:
    build(spec)
  assert all(word in str(e.value) for word in words), str(e.value)
