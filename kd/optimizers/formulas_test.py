"""Compares Lion, Muon and SGD with the formulas of their papers in float64."""

import jax
import numpy as np
import pytest

from kd.config import base
from kd.optimizers import optimizer_cases
from kd.optimizers import optimizers
from kd.optimizers import parameter_groups

_STEPS, _CLIP = 4, 20.0
# The rates of four updates.
_LR = base.schedule('linear', begin=0.03, end=0.01, first_step=1, last_step=3)
_RATES = (0.03, 0.03, 0.02, 0.01)


def _sgd(gradients, b, nesterov):
  total = np.zeros_like(gradients[0])
  for g in gradients:
    total = b * total + g
    yield g + b * total if nesterov else total


def _lion(gradients, b1, b2):
  mean = np.zeros_like(gradients[0])
  for g in gradients:
    yield np.sign(b1 * mean + (1 - b1) * g)
    mean = b2 * mean + (1 - b2) * g


def _adam(gradients, b1, b2, epsilon):
  m = v = np.zeros_like(gradients[0])
  for t, g in enumerate(gradients, 1):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    yield (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + epsilon)


def _newton_schulz(x):
  """Returns the result of Muon's original loop (Jordan et al., 2024)."""
  x = x / np.linalg.norm(x)
  for _ in range(5):
    a = x @ x.T
    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
  return x


def _muon(gradients, b, nesterov):
  """Yields Muon's updates by arXiv 2502.16982, section 2.2.

  Nesterov momentum is as in NAdam (Dozat, 2016).
  """
  mean = np.zeros_like(gradients[0])
  for t, g in enumerate(gradients, 1):
    mean = b * mean + (1 - b) * g
    ahead = b * mean / (1 - b ** (t + 1)) + (1 - b) * g / (1 - b**t)
    update = _newton_schulz(ahead if nesterov else mean)
    yield 0.2 * np.sqrt(max(g.shape)) * update


def _muon_or_adam(path, gradients, nesterov):
  names = path.split('.')
  if names[0] != 'layers' or names[-1] == 'scale':
    return _adam(gradients, 0.9, 0.95, 1e-8)
  width = optimizer_cases.SIZES.embed_dim
  is_output = names[-1] in ('out', 'down')
  shape = (-1, width) if is_output else (width, -1)
  matrices = [g.reshape(shape) for g in gradients]
  return _muon(matrices, 0.95, nesterov)


_CASES = [
  (base.sgd(_LR), lambda path, g: _sgd(g, 0.9, False)),
  (base.sgd(_LR, nesterov=True), lambda path, g: _sgd(g, 0.9, True)),
  (base.sgd(_LR, momentum=0.0), lambda path, g: g),
  (base.lion(_LR), lambda path, g: _lion(g, 0.9, 0.99)),
  (base.muon(_LR), lambda path, g: _muon_or_adam(path, g, True)),
  (
    base.muon(_LR, nesterov=False),
    lambda path, g: _muon_or_adam(path, g, False),
  ),
]


@pytest.mark.parametrize('spec,directions', _CASES)
def test_updates_equal_those_of_the_papers(spec, directions):
  spec.update(weight_decay=0.5, clip_norm=_CLIP)
  groups = optimizer_cases.groups(
    low=base.parameter_group(r'layers\.[03]', rate=0.5, weight_decay=0.25),
    tables=base.parameter_group('layers.6.mlp', frozen=True),
  )
  optimizer, _ = optimizers.build(spec.to_dict(), _STEPS, groups)
  rng = np.random.default_rng(0)
  first = params = optimizer_cases.random(rng)
  trained, frozen = groups.split(params)
  state, gradients = optimizer.init(trained), []
  step = jax.jit(optimizer.update)
  for number in range(_STEPS):
    own, _ = groups.split(optimizer_cases.random(rng))
    gradients.append(optimizer_cases.by_path(own))
    updates, state = step(own, state, trained, finite=True)
    trained = parameter_groups.apply_updates(
      trained, updates, groups.factors(trained, number)
    )
  norms = [
    np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in g.values()))
    for g in gradients
  ]
  last = optimizer_cases.by_path(parameter_groups.merge(trained, frozen))
  for path, p in optimizer_cases.by_path(first).items():
    if path in gradients[0]:
      scaled = [
        np.float64(g[path]) * _CLIP / norm
        for g, norm in zip(gradients, norms, strict=True)
      ]
      low = path.startswith(('layers.0.', 'layers.3.'))
      decay = 0.0 if path.endswith('scale') else 0.25 if low else 0.5
      for rate, change in zip(_RATES, directions(path, scaled), strict=True):
        rate *= 0.5 if low else 1.0
        p = p - rate * (np.reshape(change, p.shape) + decay * p)
    np.testing.assert_allclose(last[path], p, atol=2e-5, err_msg=path)
