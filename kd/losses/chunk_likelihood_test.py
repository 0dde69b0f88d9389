"""Chunk likelihood: the paper's formula, its gradient, equal tokenizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.core import errors
from kd.core import types
from kd.losses import distributions
from kd.losses import label_likelihood
from kd.losses import modalities
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import span_likelihoods
from kd.losses import term_builder
from kd.losses import terms

_B, _L, _V, _W, _D, _E = 3, 9, 11, 7, 4, 5
# The span of each target of the student, and of the teacher, by row.
_OWN = [[0, 1, 1, 2, 3, 3, 3, 4, 0], [1, 2, 3, 4, 5, 5, 0, 0, 0], [0] * 9]
_OTHER = [[1, 2, 2, 3, 4, 4, 0, 0, 0], [1, 2, 3, 4, 5, 0, 0, 0, 0], [0] * 9]


def _batch(own=_OWN, other=_OTHER):
  rng = np.random.default_rng(1)
  ids = rng.integers(0, _V, (2, _B, _L)).astype(np.int32)
  others = rng.integers(0, _W, (2, _B, _L)).astype(np.int32)
  ones = np.ones((_B, _L), np.int32)
  weights = (np.asarray(own) > 0) * rng.uniform(0.5, 2, (_B, _L))
  pairs = np.ones_like(others[0])
  return types.Batch(
    *ids,
    positions=ones,
    segment_ids=ones,
    parts=0 * ones,
    weights=weights.astype(np.float32),
    row_id=np.arange(_B, dtype=np.int32),
    teacher=types.TeacherTokens(
      *others,
      positions=pairs,
      segment_ids=pairs,
      spans=np.asarray(other, np.int32),
      student_spans=np.asarray(own, np.int32),
    ),
  )


@functools.cache
def _models():
  rng = np.random.default_rng(2)
  draw = lambda *shape: rng.normal(0, 1, shape).astype(np.float32)
  student = draw(_B, _L, _D), draw(_V, _D)
  return student, (draw(_B, _L, _E), draw(_W, _E))


@functools.cache
def _objective(**arguments):
  spec = base.term('chunk_likelihood', weight=2.0, **arguments).to_dict()
  sizes = terms.Sizes(1, 4, 1, 1, 4, 1.0, (None,))
  context = terms.Context(steps=10, student=sizes, teacher=sizes)
  return objective_lib.Objective(
    term_builder.build({'alm': spec}, context),
    selection.everywhere(),
    chunk_tokens=2,
    modalities=modalities.EQUAL,
  )


def _loss(objective, batch, targets, hidden, unembedding):
  student = objective_lib.Student(
    hidden, unembedding, types.Taps(None, None, None, None), {}, {}
  )
  settings = objective.settings(batch, jnp.zeros((), jnp.int32))
  return objective(student, targets, batch, settings, jax.random.key(0))


# Returns the value, the Sums, and the gradients of the student's two arrays.
_computed = jax.jit(
  jax.value_and_grad(_loss, (3, 4), has_aux=True), static_argnums=0
)


def _value(*arguments):
  return _computed(*arguments)[0]


@jax.jit
def _targets(batch, hidden, unembedding):
  pair = span_likelihoods.of(hidden, unembedding, batch.teacher, 2)
  return distributions.Targets(pair, None)


def _log_softmax(hidden, unembedding):
  logits = hidden.astype(np.float64) @ unembedding.astype(np.float64).T
  largest = logits.max(-1, keepdims=True)
  return logits - largest - np.log(np.exp(logits - largest).sum(-1))[..., None]


def _by_span(model, targets, spans):
  """Returns the log-likelihoods of spans 1, 2, ... of each row."""
  log_p = np.take_along_axis(_log_softmax(*model), targets[..., None], -1)
  return [
    [log_p[b, spans[b] == i, 0].sum() for i in range(1, spans[b].max() + 1)]
    for b in range(_B)
  ]


def _divergence(name, log_p, log_q, temperature):
  """The paper's equation for one chunk, times the temperature."""
  p, q = np.exp(log_p / temperature), np.exp(log_q / temperature)
  kl = lambda p, q: p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
  return (
    temperature
    * {
      'forward_kl': kl(p, q),
      'reverse_kl': kl(q, p),
      'total_variation': abs(p - q),
    }[name]
  )


def _formula(batch, student, teacher):
  """The objective, chunk by chunk."""
  own, pair = batch.teacher.student_spans, batch.teacher
  total, whole = 0.0, 0.0
  log_q = _by_span(student, batch.targets, own)
  log_p = _by_span(teacher, pair.targets, pair.spans)
  for b in range(_B):
    for i, likelihoods in enumerate(zip(log_p[b], log_q[b], strict=True), 1):
      weight = batch.weights[b][own[b] == i].mean()
      total += weight * _divergence('forward_kl', *likelihoods, 100.0)
      whole += weight
  return 2.0 * total / whole


@pytest.mark.parametrize('temperature', [1.0, 100.0])
@pytest.mark.parametrize(
  'name', ['forward_kl', 'reverse_kl', 'total_variation']
)
def test_divergences_equal_the_papers(name, temperature):
  rng = np.random.default_rng(4)
  pair = -rng.exponential(2.0, (2, 50))
  loss = _objective(divergence=name).terms[0].loss
  values = {'likelihood_temperature': jnp.float32(temperature)}
  found = jax.jit(loss.per_span)(*pair.astype(np.float32), values)
  expected = _divergence(name, *pair, temperature)
  np.testing.assert_allclose(found, expected, 1e-3, 1e-5)


def test_value_and_gradient_equal_the_formula():
  batch, (student, teacher) = _batch(), _models()
  objective, targets = _objective(), _targets(batch, *teacher)
  (value, sums), found = _computed(objective, batch, targets, *student)
  np.testing.assert_allclose(value, _formula(batch, student, teacher), 1e-4)
  assert sums.nonfinite.tolist() == [0.0]
  rng = np.random.default_rng(3)
  for which in (0, 1):
    step = rng.normal(0, 1, student[which].shape)

    def along(size, which=which, step=step):
      moved = [x.astype(np.float64) for x in student]
      moved[which] = moved[which] + size * step
      return _formula(batch, moved, teacher)

    expected = (along(1e-4) - along(-1e-4)) / 2e-4
    np.testing.assert_allclose(
      np.sum(found[which] * step), expected, 2e-3, err_msg=str(which)
    )
  # A head that is not trained, as with adapters.
  frozen = jax.jit(jax.grad(_loss, 3, has_aux=True), static_argnums=0)
  only, _ = frozen(objective, batch, targets, *student)
  np.testing.assert_allclose(only, found[0], 1e-6, 1e-8)


def test_spans_cut_by_a_mask_do_not_count():
  batch, (student, teacher) = _batch(), _models()
  weights = batch.weights.copy()
  weights[0, 5] = 0  # One token of three.
  cut = batch.replace(weights=weights)
  own = batch.teacher.student_spans.copy()
  own[0, 4:7] = 0
  without = batch.replace(teacher=batch.teacher.replace(student_spans=own))
  objective = _objective()
  values = [
    _value(objective, x, _targets(batch, *teacher), *student)
    for x in (cut, without, batch)
  ]
  assert values[0][0] == values[1][0] != values[2][0]
  # The same holds for a span in two parts of the answer.
  parts = batch.parts.copy()
  parts[0, 5] = types.RATIONALE
  of_answer = _objective(part='answer')
  targets = _targets(batch, *teacher)
  value, _ = _value(of_answer, batch.replace(parts=parts), targets, *student)
  assert value == values[0][0]


def test_equal_tokenizers_compare_token_by_token():
  own = np.arange(1, _L + 1)[None].repeat(_B, 0)
  batch, (student, _) = _batch(own, own), _models()
  pair = batch.teacher.replace(targets=batch.targets, tokens=batch.tokens)
  batch = batch.replace(teacher=pair)
  teacher = np.flip(student[0], 1).copy(), student[1]
  targets = _targets(batch, *teacher)
  log_p, log_q = (
    np.take_along_axis(_log_softmax(*x), batch.targets[..., None], -1)[..., 0]
    for x in (teacher, student)
  )
  np.testing.assert_allclose(targets.distribution.log_p, log_p, 1e-5, 1e-5)
  losses = _divergence('forward_kl', log_p, log_q, 100.0)
  value, _ = _value(_objective(), batch, targets, *student)
  expected = 2 * np.sum(losses * batch.weights) / np.sum(batch.weights)
  np.testing.assert_allclose(value, expected, 1e-4)
  # Equal models have no loss and no gradient.
  same = _targets(batch, *student)
  (value, _), slopes = _computed(_objective(), batch, same, *student)
  assert value < 1e-9 and max(np.abs(x).max() for x in slopes) < 1e-6


def test_likelihoods_of_spans_multiply_to_the_texts():
  batch, (_, teacher) = _batch(), _models()
  pair = batch.teacher.replace(
    spans=np.array([[1, 2, 2, 3, 4, 4, 5, 6, 6]] * _B, np.int32),
    student_spans=np.array([[1, 1, 2, 3, 3, 4, 4, 5, 6]] * _B, np.int32),
  )
  targets = _targets(batch.replace(teacher=pair), *teacher)
  log_p = targets.distribution.log_p[:, [0, 2, 3, 5, 7, 8]]
  every = np.take_along_axis(
    _log_softmax(*teacher), pair.targets[..., None], -1
  )
  np.testing.assert_allclose(log_p.sum(1), every.sum((1, 2)), 1e-5)


def test_nonfinite_teachers_are_counted():
  batch, (student, (hidden, table)) = _batch(), _models()
  broken = hidden.copy()
  broken[0, 1] = np.nan
  targets = _targets(batch, broken, table)
  _, sums = _value(_objective(), batch, targets, *student)
  assert sums.nonfinite.tolist() == [1.0]


def test_certain_and_impossible_chunks_stay_finite():
  loss = _objective().terms[0].loss
  values = {'likelihood_temperature': jnp.float32(100.0)}
  pairs = jnp.array([0.0, -1e-7, -1.0, -80.0, -1e5])
  log_p, log_q = (x.ravel() for x in jnp.meshgrid(pairs, pairs))
  total = lambda q: jnp.sum(loss.per_span(log_p, q, values))
  value, slope = jax.jit(jax.value_and_grad(total))(log_q)
  assert np.isfinite(value) and np.isfinite(slope).all()


def test_positions_without_weight_change_nothing():
  (hidden, table), _ = _models()
  hidden = hidden.copy()
  hidden[:, -1] = np.nan
  counted = np.arange(_L)[None].repeat(_B, 0) < _L - 1

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def slope_and_out(hidden):
    out = label_likelihood.log_probabilities(
      2, hidden, table, _batch().targets, counted
    )
    return jnp.sum(out), out

  for found in slope_and_out(hidden):
    assert np.isfinite(found).all() and not np.any(found[:, -1])


def test_arguments_are_checked():
  with pytest.raises(errors.ConfigError, match='likelihood_temperature'):
    _objective(likelihood_temperature=0.0)
