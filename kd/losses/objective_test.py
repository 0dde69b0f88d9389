"""The objective against float64 numpy written from the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import errors
from kd.core import types
from kd.losses import divergences
from kd.losses import objective
from kd.losses import terms as terms_lib

TERMS = {
  'kl': {'name': 'forward_kl', 'weight': 0.7, 'temperature': 2.0},
  'ce': {'name': 'cross_entropy', 'weight': 0.3},
}


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def reference(case, terms=None):
  """Values and gradients of the whole objective, in float64."""
  terms = terms or TERMS
  h, w, th, tw = (
    np.asarray(case[k], np.float64) for k in ('h', 'w', 'th', 'tw')
  )
  labels, weights = case['labels'], np.asarray(case['weights'], np.float64)
  student = h @ w.T
  teacher = th @ tw.T
  shared = min(student.shape[-1], teacher.shape[-1])
  sums, d_logits = {}, np.zeros_like(student)
  for key, spec in terms.items():
    if spec['name'] == 'forward_kl':
      t = spec['temperature']
      log_p = log_softmax(teacher[..., :shared] / t)
      log_q = log_softmax(student[..., :shared] / t)
      p, q = np.exp(log_p), np.exp(log_q)
      loss = t * t * (p * (log_p - log_q)).sum(-1)
      gradient = np.zeros_like(student)
      gradient[..., :shared] = t * (q - p)
    else:
      log_q = log_softmax(student)
      one_hot = np.eye(student.shape[-1])[labels]
      loss = -(one_hot * log_q).sum(-1)
      gradient = np.exp(log_q) - one_hot
    sums[key] = (loss * weights).sum()
    scale = spec['weight'] / weights.sum()
    d_logits += scale * weights[..., None] * gradient
  total = sum(terms[k]['weight'] * s / weights.sum() for k, s in sums.items())
  d_w = np.einsum('blv,bld->vd', d_logits, h)
  return total, sums, d_logits @ w, d_w


def make_case(batch=2, length=7, vocab=11, teacher_vocab=11, seed=0):
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  weights = rng.uniform(0.5, 2.0, (batch, length)).astype(np.float32)
  weights[:, :2] = 0
  labels = rng.integers(0, min(vocab, teacher_vocab), (batch, length))
  return dict(
    h=normal(batch, length, 5),
    w=normal(vocab, 5),
    th=normal(batch, length, 3),
    tw=normal(teacher_vocab, 3),
    labels=labels.astype(np.int32),
    weights=weights,
  )


def to_batch(case):
  zeros = jnp.zeros(case['labels'].shape, jnp.int32)
  return types.Batch(
    tokens=zeros,
    targets=jnp.asarray(case['labels']),
    positions=zeros,
    segment_ids=zeros,
    weights=jnp.asarray(case['weights']),
    row_id=zeros[:, 0],
  )


def run(case, chunk_tokens=4, terms=None, dtype=jnp.float32):
  terms = terms_lib.build(terms or TERMS)
  batch = to_batch(case)
  scales = objective.scales(terms, jnp.sum(batch.weights))
  targets = types.Targets(
    jnp.asarray(case['th'], dtype), jnp.asarray(case['tw'])
  )

  def loss(h, w):
    return objective.objective(
      terms, h, w, targets, batch, scales, chunk_tokens
    )

  both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  (total, sums), grads = jax.jit(both)(
    jnp.asarray(case['h'], dtype), jnp.asarray(case['w'])
  )
  return total, sums, *grads


@pytest.mark.parametrize('vocab,teacher_vocab', [(11, 11), (11, 14), (14, 11)])
def test_values_and_gradients_equal_float64(vocab, teacher_vocab):
  case = make_case(vocab=vocab, teacher_vocab=teacher_vocab)
  total, sums, d_h, d_w = run(case)
  expected = reference(case)
  np.testing.assert_allclose(total, expected[0], rtol=1e-5)
  for key in TERMS:
    np.testing.assert_allclose(sums[key], expected[1][key], rtol=1e-5)
  np.testing.assert_allclose(d_h, expected[2], atol=1e-6)
  np.testing.assert_allclose(d_w, expected[3], atol=1e-6)


@pytest.mark.parametrize('chunk_tokens', [1, 2, 6, 14, 1000])
def test_chunk_size_changes_nothing(chunk_tokens):
  case = make_case()
  total, _, d_h, d_w = run(case, chunk_tokens)
  expected = reference(case)
  np.testing.assert_allclose(total, expected[0], rtol=1e-5)
  np.testing.assert_allclose(d_h, expected[2], atol=1e-6)
  np.testing.assert_allclose(d_w, expected[3], atol=1e-6)


def test_value_without_gradient_is_the_same():
  case = make_case()
  terms = terms_lib.build(TERMS)
  batch = to_batch(case)
  total, _ = objective.objective(
    terms,
    jnp.asarray(case['h']),
    jnp.asarray(case['w']),
    types.Targets(jnp.asarray(case['th']), jnp.asarray(case['tw'])),
    batch,
    objective.scales(terms, jnp.sum(batch.weights)),
    4,
  )
  np.testing.assert_allclose(total, reference(case)[0], rtol=1e-5)


def test_no_weight_gives_zero_loss_and_gradient():
  case = make_case()
  case['weights'][:] = 0
  total, sums, d_h, d_w = run(case)
  assert total == 0 and all(s == 0 for s in sums.values())
  assert not np.any(d_h) and not np.any(d_w)


def test_what_stands_where_nothing_counts_is_not_seen():
  # A NaN or infinity behind a zero weight must not reach value or gradient.
  case = make_case()
  expected = run(case)
  case['th'][:, :2] = np.nan
  case['weights'][0, 3] = 0
  clean = run(case)
  case['th'][0, 3] = np.inf
  for got, want in zip(jax.tree.leaves(run(case)), jax.tree.leaves(clean)):
    np.testing.assert_array_equal(got, want)
  assert not np.array_equal(clean[0], expected[0])


def test_student_equal_to_teacher_has_no_loss_and_no_gradient():
  case = make_case()
  case['th'], case['tw'] = case['h'], case['w']
  kl = {'kl': TERMS['kl']}
  total, _, d_h, d_w = run(case, terms=kl)
  np.testing.assert_allclose(total, 0, atol=1e-7)
  np.testing.assert_allclose(d_h, 0, atol=1e-7)
  np.testing.assert_allclose(d_w, 0, atol=1e-7)


def test_chunks_are_summed_before_they_are_divided():
  # Losses 4 | 1, 1 in chunks of one and two live tokens: 2, not 2.5.
  values = [4.0, 0.0, 1.0, 1.0]
  logits = np.log(np.exp(-np.array(values)))
  h = np.zeros((1, 4, 4), np.float32)
  for i, value in enumerate(logits):
    # Two ids: softmax of (x, 0) at id 0 is exp(-loss).
    p = np.exp(value)
    h[0, i, 0] = 50.0 if p == 1 else np.log(p / (1 - p))
  w = np.zeros((2, 4), np.float32)
  w[0, 0] = 1
  case = dict(
    h=h,
    w=w,
    th=h,
    tw=w,
    labels=np.zeros((1, 4), np.int32),
    weights=np.array([[1, 0, 1, 1]], np.float32),
  )
  terms = {'ce': {'name': 'cross_entropy', 'weight': 1.0}}
  for chunk_tokens in (1, 2, 4):
    np.testing.assert_allclose(
      run(case, chunk_tokens, terms)[0], 2.0, rtol=1e-5
    )


def test_temperature_keeps_the_gradients_size():
  student = jnp.array([0.5, 0.0, -0.5])
  teacher = jnp.array([1.0, 0.0, -1.0])
  norm = lambda t: jnp.linalg.norm(
    jax.grad(divergences.forward_kl_per_token)(student, teacher, t)
  )
  np.testing.assert_allclose(norm(1.0), 0.196, atol=1e-3)
  np.testing.assert_allclose(norm(10.0), 0.235, atol=1e-3)


def test_forward_kl_gradient_is_student_minus_teacher():
  rng = np.random.default_rng(1)
  student, teacher = rng.normal(size=(2, 9)).astype(np.float32)
  gradient = jax.grad(divergences.forward_kl_per_token)(student, teacher, 1.0)
  expected = np.exp(log_softmax(student)) - np.exp(log_softmax(teacher))
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_suppressed_ids_and_large_logits_stay_finite():
  value = jax.value_and_grad(divergences.forward_kl_per_token)
  teacher = jnp.array([1.0, -jnp.inf, 2.0, 0.5])
  student = jnp.array([0.3, -jnp.inf, 1.0, 0.7])
  loss, gradient = value(student, teacher, 1.0)
  rest = jnp.array([0, 2, 3])
  expected, _ = value(student[rest], teacher[rest], 1.0)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  assert np.isfinite(gradient).all()
  loss, gradient = value(
    jnp.array([1e4, 0.0, -1e4]), jnp.array([-1e4, 0.0, 1e4]), 1.0
  )
  np.testing.assert_allclose(loss, 2e4, rtol=1e-6)
  assert np.isfinite(gradient).all()


def test_low_temperature_in_bfloat16():
  case = make_case()
  case['h'] *= 6
  terms = {'kl': dict(TERMS['kl'], temperature=0.05)}
  wide = run(case, terms=terms)
  narrow = run(case, terms=terms, dtype=jnp.bfloat16)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(narrow))
  np.testing.assert_allclose(narrow[0], wide[0], rtol=2e-2)


def test_statistics_per_row():
  case = make_case(teacher_vocab=14)
  batch = to_batch(case)
  got = objective.statistics(
    jnp.asarray(case['h']),
    jnp.asarray(case['w']),
    types.Targets(jnp.asarray(case['th']), jnp.asarray(case['tw'])),
    batch,
    chunk_tokens=4,
  )
  student = np.asarray(case['h'], np.float64) @ case['w'].T
  teacher = (np.asarray(case['th'], np.float64) @ case['tw'].T)[..., :11]
  log_q, log_p = log_softmax(student), log_softmax(teacher)
  picked = np.take_along_axis(log_q, case['labels'][..., None], -1)[..., 0]
  expected = {
    'weight': case['weights'],
    'nll': -picked * case['weights'],
    'kl': (np.exp(log_p) * (log_p - log_q)).sum(-1) * case['weights'],
    'agreement': (student.argmax(-1) == teacher.argmax(-1)) * case['weights'],
  }
  for name, values in expected.items():
    np.testing.assert_allclose(got[name], values.sum(-1), rtol=1e-5)


@pytest.mark.parametrize(
  'spec,words',
  [
    ({'name': 'forwrd_kl', 'weight': 1.0}, ('losses.a.name', 'forward_kl')),
    (
      {'name': 'forward_kl', 'weight': 1.0, 'temprature': 1.0},
      ('losses.a.temprature', 'temperature'),
    ),
    ({'name': 'forward_kl', 'weight': 1.0}, ('losses.a.temperature',)),
    (
      {'name': 'forward_kl', 'weight': -1.0, 'temperature': 1.0},
      ('losses.a.weight', '0 or more'),
    ),
    (
      {'name': 'forward_kl', 'weight': 1.0, 'temperature': 0.0},
      ('losses.a.temperature', 'above 0'),
    ),
    ({'name': 'cross_entropy'}, ('losses.a.weight', 'missing')),
  ],
)
def test_wrong_terms_are_named(spec, words):
  with pytest.raises(errors.ConfigError) as e:
    terms_lib.build({'a': spec})
  assert all(word in str(e.value) for word in words), str(e.value)
