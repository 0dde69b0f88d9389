"""Outcomes of two vocabularies against float64, and their reduction to one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.losses import dense_distributions
from kd.losses import divergences
from kd.losses import projected_distributions
from kd.losses import term_builder
from kd.losses import terms

_NAMES = ('forward_kl', 'reverse_kl', 'total_variation')


def _side(ids, others, joined, size):
  arrays = (np.array(x, np.int32) for x in (ids, others, joined))
  return projected_distributions.Side(*arrays, size)


# Outcomes 0 to 2, and 3 of neither; ids from `size` on are padding.
_SHARED = projected_distributions.SharedVocabulary(
  _side([4, 0, 2], [1, 3, 5, 6], [0, 0, 2, 3], 7),
  _side([1, 3, 0], [2, 4], [1, 3], 5),
  False,
)


def _softmax(logits, size, t):
  scaled = np.asarray(logits, np.float64)[..., :size] / t
  p = np.exp(scaled - scaled.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def _outcomes(side, logits, t):
  """Sums probabilities id by id."""
  p = _softmax(logits, side.size, t)
  out = np.zeros((*p.shape[:-1], len(side.ids) + 1))
  for ids, places in (
    (side.ids, range(len(side.ids))),
    (side.others, side.joined),
  ):
    for index, place in zip(ids, places, strict=True):
      out[..., place] += p[..., index]
  return out


def _divergence(name, p, q):
  kl = lambda a, b: (a * np.log(a / b)).sum(-1)
  return {
    'forward_kl': lambda: kl(p, q),
    'reverse_kl': lambda: kl(q, p),
    'total_variation': lambda: np.abs(p - q).sum(-1) / 2,
  }[name]()


def _logits(seed=0):
  draw = np.random.default_rng(seed).normal
  return (3 * draw(size=(6, n)).astype(np.float32) for n in (8, 6))


def _loss(name, student, teacher, shared, t):
  term = base.term(name, temperature=t).to_dict()
  context = terms.Context(1, None, terms.Sizes(1, 1, 1, 1, 1, 1.0, (None,)))
  (built,) = term_builder.build({'x': term}, context)
  told = dense_distributions.TeacherLogits(jnp.asarray(teacher), 1.0)
  inputs = terms.TokenInputs(
    student,
    projected_distributions.ProjectedLogits(told, shared),
    jnp.zeros(6, jnp.int32),
  )
  losses, (finite,) = built.loss.per_token(
    inputs, {'temperature': jnp.float32(t)}
  )
  assert finite.all()
  return losses


@pytest.mark.parametrize('t', [1.0, 2.0])
@pytest.mark.parametrize('name', [*_NAMES, 'uld'])
def test_losses_and_gradients_equal_float64(name, t):
  student, teacher = _logits()

  def oracle(logits):
    if name == 'uld':
      p = np.sort(_softmax(teacher, 5, t))[..., ::-1]
      q = np.sort(_softmax(logits, 7, t))[..., ::-1]
      p = np.pad(p, [(0, 0), (0, 2)])
      return np.abs(p - q).sum(-1)
    p = _outcomes(_SHARED.teacher, teacher, t)
    q = _outcomes(_SHARED.student, logits, t)
    power = divergences.DIVERGENCES.build({'name': name}, '').temperature_power
    return _divergence(name, p, q) * t**power

  loss = lambda x: jnp.sum(_loss(name, x, teacher, _SHARED, t))
  found = _loss(name, jnp.asarray(student), teacher, _SHARED, t)
  np.testing.assert_allclose(found, oracle(student), rtol=2e-5)
  gradient = np.asarray(jax.grad(loss)(jnp.asarray(student)))
  assert not gradient[:, 7:].any()  # Padding.
  way = np.random.default_rng(1).normal(size=student.shape)
  step = 1e-6
  slope = oracle(student + step * way) - oracle(student - step * way)
  np.testing.assert_allclose(
    (gradient * way).sum(), slope.sum() / (2 * step), rtol=1e-3
  )


@pytest.mark.parametrize('name', _NAMES)
def test_equal_tokenizers_give_the_plain_divergence(name):
  student, _ = _logits()
  teacher, _ = _logits(2)
  told = dense_distributions.TeacherLogits(jnp.asarray(teacher), 1.0)
  divergence = divergences.DIVERGENCES.build({'name': name}, '')
  expected, _ = dense_distributions.MixtureLogits((told,)).divergence(
    divergence, jnp.asarray(student), jnp.float32(1)
  )
  shared = projected_distributions.same(7)
  found = _loss(name, jnp.asarray(student), teacher, shared, 1.0)
  np.testing.assert_array_equal(found, expected)


def test_impossible_ids_give_finite_losses():
  student, teacher = _logits()
  student[:, [5, 6]] = -200  # The last outcome has no mass of the student's.
  teacher[:, 4] = 9
  losses = _loss('forward_kl', jnp.asarray(student), teacher, _SHARED, 1.0)
  gradient = jax.grad(
    lambda x: jnp.sum(_loss('forward_kl', x, teacher, _SHARED, 1.0))
  )(jnp.asarray(student))
  assert np.isfinite(losses).all() and np.isfinite(gradient).all()
