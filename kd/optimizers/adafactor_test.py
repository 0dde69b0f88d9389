"""Compares Adafactor and AdamW with float64 numpy written from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.optimizers import optimizers

UPDATES = 100
RATE, DECAY = 0.02, 0.1
# Matrices of each layer: two with factored moments, whose larger axis is last
# or first, and one too small for that. Each layer also has a norm, which does
# not decay.
SHAPES = {'wide': (128, 140), 'tall': (150, 128), 'small': (6, 200)}
LAYERS = 3


def _layers(rng):
  """Returns the parameters of several layers, of different magnitudes."""
  found = []
  for layer in range(LAYERS):
    size = 10.0 ** (layer - 1)
    one = {k: rng.normal(size=s) * size for k, s in SHAPES.items()}
    found.append(one | {'norm': {'scale': rng.normal(size=7)}})
  return found


def _stack(layers):
  """Returns parameters with these layers scanned, and one more layer."""
  to = lambda *x: jnp.asarray(np.stack(x), jnp.float32)
  return {
    'pattern': jax.tree.map(to, *layers),
    'remainder': jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), layers[0]),
  }


def _rms(x):
  return np.sqrt(np.mean(x * x))


def _adafactor(x, gradients, decays):
  """Runs algorithms 4 and 5 of arXiv 1804.04235 on a matrix or vector."""
  rows, columns, full = 0.0, 0.0, 0.0
  factored = min(x.shape) >= 128
  for t, g in enumerate(gradients, 1):
    decay = 1 - t**-0.8
    square = g * g + 1e-30
    rows = decay * rows + (1 - decay) * square.sum(-1)
    columns = decay * columns + (1 - decay) * square.sum(0)
    full = decay * full + (1 - decay) * square
    v = np.outer(rows, columns) / rows.sum() if factored else full
    u = g / np.sqrt(v)
    u /= max(1.0, _rms(u) / 1.0)
    x = x - RATE * (max(1e-3, _rms(x)) * u + DECAY * decays * x)
  return x


def _adamw(x, gradients, decays):
  """Runs algorithm 2 of arXiv 1711.05101."""
  m = v = 0.0
  for t, g in enumerate(gradients, 1):
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    x = x - RATE * (u + DECAY * decays * x)
  return x


PAPERS = {
  'adafactor': (base.adafactor, _adafactor),
  'adamw': (base.adamw, _adamw),
}


@pytest.mark.parametrize('name', sorted(PAPERS))
@pytest.mark.parametrize('scale', [0.0, 1.0])
def test_a_hundred_updates_equal_the_papers_in_each_layer(name, scale):
  spec, paper = PAPERS[name]
  lr = base.schedule('constant', peak=RATE, warmup_steps=0)
  optimizer, _ = optimizers.build(
    spec(lr, weight_decay=DECAY, clip_norm=0.0).to_dict(), UPDATES
  )
  rng = np.random.default_rng(0)
  start = _layers(rng)
  # Float32 values, so that both sides start from the same values.
  start = jax.tree.map(lambda x: np.float32(x).astype(np.float64), start)
  params = _stack(start)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, gradients):
    updates, state = optimizer.update(gradients, state, params, finite=True)
    return jax.tree.map(jnp.add, params, updates), state

  seen = []
  for _ in range(UPDATES):
    gradients = jax.tree.map(lambda x: np.float32(scale) * x, _layers(rng))
    seen.append(gradients)
    params, state = step(params, state, _stack(gradients))
  for layer in range(LAYERS):
    expected = jax.tree_util.tree_map_with_path(
      lambda path, x, *g: paper(x, g, path[-1].key != 'scale'),
      start[layer],
      *[gradients[layer] for gradients in seen],
    )
    got = [jax.tree.map(lambda x, n=layer: x[n], params['pattern'])]
    if layer == 0:
      got.append(params['remainder'])
    for found in got:
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
          a, b, rtol=2e-4, atol=2e-5 * max(_rms(b), 1e-9)
        ),
        found,
        expected,
      )
  if not scale:
    # Without gradients there is only decay: (1 - rate x decay) ** updates.
    shrunk = params['remainder']['wide'] / start[0]['wide']
    np.testing.assert_allclose(shrunk, (1 - RATE * DECAY) ** UPDATES, rtol=1e-4)
