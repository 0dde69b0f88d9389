"""Sparse teachers against the dense teacher that they are taken from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import errors
from kd.losses import dense_distributions
from kd.losses import sparse_distributions
from kd.losses import term_builder
from kd.losses import terms

CONTEXT = terms.Context(
  steps=10, student=None, teacher=terms.Sizes(1, 1, 1, 1, 1, 1.0, (None,))
)
OWN = {
  'forward_kl': {},
  'reverse_kl': {},
  'jensen_shannon': {'beta': 0.3},
  'skewed_forward_kl': {'skew': 0.2},
  'skewed_reverse_kl': {'skew': 0.2},
  'total_variation': {},
  'alpha_beta': {'alpha': 0.4, 'beta': 0.7},
  'adaptive_kl': {'head_mass': 0.5},
}


def build(name, temperature=1.0, clip=0.0):
  spec = dict(
    name=name,
    weight=1.0,
    temperature=temperature,
    clip=clip,
    part='all',
    **OWN[name],
  )
  (term,) = term_builder.build({'a': spec}, CONTEXT)

  def loss(student, teacher):
    inputs = terms.TokenInputs(
      jnp.asarray(student), teacher, jnp.zeros(student.shape[:-1], jnp.int32)
    )
    losses, _ = term.loss.per_token(
      inputs, {'temperature': jnp.float32(temperature)}
    )
    return losses

  return jax.jit(loss)


def built(names, temperature=1.0):
  """Returns the losses by name: one program for all compiles faster."""
  return {name: build(name, temperature) for name in names}


def values(losses, student, *teachers):
  """Returns each loss's values and the gradient of their sum, by teacher."""

  def value_and_gradient(loss, student, teacher):
    value, pullback = jax.vjp(lambda s: loss(s, teacher), student)
    return value, *pullback(jnp.ones_like(value))

  @jax.jit
  def run(student, teachers):
    return {
      name: [value_and_gradient(loss, student, t) for t in teachers]
      for name, loss in losses.items()
    }

  return run(jnp.asarray(student, jnp.float32), teachers)


def log_softmax(x):
  x = np.asarray(x, np.float64)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def dense(*logits, shares=(1.0,)):
  return dense_distributions.MixtureLogits(
    tuple(
      dense_distributions.TeacherLogits(
        jnp.asarray(x, jnp.float32), jnp.float32(s)
      )
      for x, s in zip(logits, shares, strict=True)
    )
  )


def top_k(logits, k):
  """The K most likely ids as another program would store them."""
  log_p = log_softmax(logits)
  ids = np.argsort(-log_p, axis=-1)[..., :k]
  kept = np.take_along_axis(log_p, ids, -1)
  rest = np.exp(log_p)
  np.put_along_axis(rest, ids, 0.0, -1)
  with np.errstate(divide='ignore'):
    tail = np.log(rest.sum(-1))
  return sparse_distributions.TopK(
    jnp.asarray(ids, jnp.int32),
    jnp.asarray(kept, jnp.float32),
    jnp.asarray(tail, jnp.float32),
  )


def random_pair(vocab=40, seed=0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(2, 3, 5, vocab)) * 2).astype(np.float32)


# Data processing inequality: merging outcomes lowers an f-divergence. The
# alpha-beta family and the adaptive mixture are not f-divergences.
F_DIVERGENCES = sorted(set(OWN) - {'alpha_beta', 'adaptive_kl'})


def test_tail_bucket_never_exceeds_dense_and_converges():
  student, teacher = random_pair()
  losses = built(F_DIVERGENCES)
  teachers = [dense(teacher), *(top_k(teacher, k) for k in (1, 8, 39, 40))]
  run = jax.jit(
    lambda s, ts: {n: [loss(s, t) for t in ts] for n, loss in losses.items()}
  )
  for name, (whole, *sparse) in run(student, teachers).items():
    # The ids of a larger K include these, so the loss never decreases.
    increasing = np.stack([np.zeros_like(whole), *sparse])
    assert (np.diff(increasing, axis=0) >= -1e-6).all(), name
    assert (increasing <= whole + 1e-6).all(), name
    np.testing.assert_allclose(
      sparse[-1], whole, rtol=2e-5, atol=1e-6, err_msg=name
    )


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_all_ids_kept_is_the_dense_loss_and_gradient(temperature):
  student, teacher = random_pair(vocab=12)
  both = dense(teacher), top_k(teacher, 12)
  by_name = values(built(OWN, temperature), student, *both)
  for name, ((want, want_gradient), (got, gradient)) in by_name.items():
    np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-5, err_msg=name)


def test_mass_in_the_tail_is_penalized():
  # V 1000, K 8: most of the student's mass lies outside the teacher's top 8,
  # and inside them both models have the same proportions. If both renormalized
  # over the 8, the loss would be 0.
  teacher = np.linspace(3, -3, 1000)[None]
  student = teacher.copy()
  student[:, 8:] += 4
  log_p, log_q = log_softmax(teacher), log_softmax(student)
  kl = (np.exp(log_p) * (log_p - log_q)).sum()
  loss = build('forward_kl')
  targets = top_k(teacher, 8)
  value, gradient = jax.value_and_grad(lambda s: loss(s, targets)[0])(
    jnp.asarray(student, jnp.float32)
  )
  assert 0.01 < value <= kl + 1e-5
  assert (gradient[0, 8:] > 0).all()


def test_equal_distributions_have_zero_loss():
  probabilities = np.log([0.5, 0.3, 0.15, 0.05])
  teachers = (
    dense(probabilities),
    top_k(probabilities, 2),
    top_k(probabilities, 4),
  )
  for name, found in values(built(OWN), probabilities, *teachers).items():
    for value, gradient in found:
      assert abs(value) < 1e-6, name
      np.testing.assert_allclose(gradient, 0, atol=1e-6, err_msg=name)


def test_unused_slots_change_nothing():
  student, teacher = random_pair(vocab=9)
  short = top_k(teacher, 4)
  wide = sparse_distributions.TopK(
    jnp.pad(short.ids, [(0, 0)] * 2 + [(0, 3)], constant_values=-1),
    jnp.pad(short.logprobs, [(0, 0)] * 2 + [(0, 3)], constant_values=-jnp.inf),
    short.tail_logprob,
  )
  found = values(built(OWN), student, wide, short)
  for name, ((value, gradient), (want, want_gradient)) in found.items():
    np.testing.assert_allclose(value, want, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-6, err_msg=name)


def test_samples_are_unbiased():
  # The mean over all ids, weighted by their probabilities, is exact.
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, 7)).astype(np.float32)
  losses = built(sorted(set(OWN) - {'adaptive_kl'}))
  log_p = log_softmax(teacher)
  drawn = sparse_distributions.Sampled(
    ids=np.stack([np.arange(7), np.full(7, -1)], -1),
    logprobs=np.stack([log_p, np.full(7, -np.inf)], -1).astype(np.float32),
    weights=np.tile(np.float32([1, 0]), (7, 1)),
  )

  @jax.jit
  def run(student, whole, drawn):
    both = {name: jax.value_and_grad(loss) for name, loss in losses.items()}
    each = jax.vmap(lambda t: {n: f(student, t) for n, f in both.items()})
    return {n: f(student, whole) for n, f in both.items()}, each(drawn)

  wanted, each = run(jnp.asarray(student), dense(teacher), drawn)
  for name, (want, want_gradient) in wanted.items():
    value, gradient = each[name]
    p = np.exp(log_p)
    np.testing.assert_allclose(p @ value, want, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(
      p @ gradient, want_gradient, atol=1e-6, err_msg=name
    )


def test_gradients_of_samples_are_student_minus_drawn():
  # Gemma 3's own recipe: cross-entropy with the drawn distribution.
  student = np.array([0.3, -1.0, 2.0, 0.0], np.float32)
  drawn = sparse_distributions.Sampled(
    ids=jnp.array([2, 0]),
    logprobs=jnp.log(jnp.array([0.6, 0.1])),
    weights=jnp.array([0.75, 0.25]),
  )
  gradient = jax.grad(build('forward_kl'))(jnp.asarray(student), drawn)
  want = np.exp(log_softmax(student)) - np.array([0.25, 0, 0.75, 0])
  np.testing.assert_allclose(gradient, want, atol=1e-6)


def test_losses_that_samples_do_not_support_are_refused():
  drawn = sparse_distributions.Sampled(
    jnp.array([0]), jnp.array([0.0]), jnp.array([1.0])
  )
  softened = drawn.replace(log_sum=jnp.zeros(()), drawn_at=2.0)
  build('forward_kl', 2.0)(np.zeros(3, np.float32), softened)
  for targets, temperature in ((drawn, 2.0), (softened, 3.0)):
    with pytest.raises(errors.ConfigError, match='temperature'):
      build('forward_kl', temperature)(np.zeros(3, np.float32), targets)
  with pytest.raises(errors.ConfigError, match='full distribution'):
    build('adaptive_kl')(np.zeros(3, np.float32), drawn)


def test_teachers_are_mixed_as_probabilities():
  rng = np.random.default_rng(3)
  student, one, two = rng.normal(size=(3, 6)).astype(np.float32)
  t, shares = 2.0, (0.25, 0.75)
  p = sum(s * np.exp(log_softmax(x / t)) for s, x in zip(shares, (one, two)))
  want = t * t * (p * (np.log(p) - log_softmax(student / t))).sum()
  loss = build('forward_kl', t)
  got = loss(student, dense(one, two, shares=shares))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_ids_missing_in_one_model_are_left_out():
  student, teacher = random_pair(vocab=10)
  loss = build('forward_kl')
  want = loss(student[..., :8], dense(teacher[..., :8]))
  got = loss(student[..., :8], dense(teacher))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  got = loss(student, dense(teacher[..., :8]))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_clip_limits_value_and_gradient():
  student = np.array([[8.0, 0.0], [0.5, 0.0]], np.float32)
  teacher = dense(np.array([[-8.0, 0.0], [0.0, 0.0]]))
  loss = build('forward_kl', clip=1.0)
  value, vjp = jax.vjp(lambda s: loss(s, teacher), jnp.asarray(student))
  (gradient,) = vjp(jnp.ones(2))
  assert value[0] == 1.0 and not gradient[0].any()
  assert 0 < value[1] < 1 and gradient[1].any()
