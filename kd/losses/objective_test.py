"""The objective against float64 numpy written from the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import eval_sums
from kd.losses import importance
from kd.losses import objective
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib

KL = base.term('forward_kl', weight=0.7, temperature=2.0).to_dict()
CE = base.term('cross_entropy', weight=0.3).to_dict()
TERMS = {'kl': KL, 'ce': CE}
SIZES = terms_lib.Sizes(2, 8, 2, 1, 4, 0.5, (None, None))
CONTEXT = terms_lib.Context(steps=100, student=SIZES, teacher=SIZES)


PART_OF = {
  'all': lambda parts: np.ones_like(parts),
  'answer': lambda parts: parts == types.ANSWER,
  'rationale': lambda parts: parts == types.RATIONALE,
  'sampled': lambda parts: parts == types.SAMPLED,
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
  total, sums, d_logits = 0.0, {}, np.zeros_like(student)
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
      log_z = np.log(np.exp(student).sum(-1))
      smooth, z_loss = spec['label_smoothing'], spec['z_loss']
      target = (1 - smooth) * np.eye(student.shape[-1])[labels]
      target = target + smooth / student.shape[-1]
      loss = log_z - (target * student).sum(-1) + z_loss * log_z**2
      q = np.exp(log_softmax(student))
      gradient = q * (1 + 2 * z_loss * log_z)[..., None] - target
    counted = weights * (PART_OF[spec['part']](case['parts']))
    if spec['name'] == 'cross_entropy':
      counted = counted * (case['parts'] != types.SAMPLED)
    scale = spec['weight'] / counted.sum()
    counted = counted * case.get('importance', 1)
    sums[key] = (loss * counted).sum()
    total += scale * sums[key]
    d_logits += scale * counted[..., None] * gradient
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
    parts=rng.integers(0, 3, (batch, length)).astype(np.int32),
  )


def to_batch(case):
  zeros = jnp.zeros(case['labels'].shape, jnp.int32)
  return types.Batch(
    tokens=zeros,
    targets=jnp.asarray(case['labels']),
    positions=zeros,
    segment_ids=zeros,
    weights=jnp.asarray(case['weights']),
    parts=jnp.asarray(case['parts']),
    row_id=zeros[:, 0],
    sampling_logprobs=case.get('logprobs'),
  )


def build(terms, chunk_tokens=4, **changes):
  built = term_builder.build(terms, CONTEXT)
  kept = selection.everywhere()
  return objective.Objective(built, kept, chunk_tokens, **changes)


def to_targets(case, dtype=jnp.float32):
  dense = dense_distributions.DenseTeacher(
    jnp.asarray(case['th'], dtype), jnp.asarray(case['tw']), jnp.ones(())
  )
  return distributions.Targets(dense_distributions.DenseMixture((dense,)), None)


def run(case, *arguments, **changes):
  (total, sums), grads = compute(case, *arguments, **changes)
  return total, sums.losses, *grads


def compute(case, chunk_tokens=4, terms=None, dtype=jnp.float32, **changes):
  built = build(terms or TERMS, chunk_tokens, **changes)
  batch = to_batch(case)
  settings = built.settings(batch, 0)
  targets = to_targets(case, dtype)

  def loss(h, w):
    return built.logits_total(h, w, targets, batch, settings)

  both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  return jax.jit(both)(jnp.asarray(case['h'], dtype), jnp.asarray(case['w']))


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


def test_the_value_is_the_same_without_the_gradient():
  case = make_case()
  built, batch = build(TERMS), to_batch(case)
  total, _ = built.logits_total(
    jnp.asarray(case['h']),
    jnp.asarray(case['w']),
    to_targets(case),
    batch,
    built.settings(batch, 0),
  )
  np.testing.assert_allclose(total, reference(case)[0], rtol=1e-5)


def test_smoothing_z_loss_and_parts_equal_float64():
  """Labels are not the tokens that the student sampled."""
  case = make_case()
  terms = {
    'rationale': dict(CE, label_smoothing=0.1, z_loss=0.05, part='rationale'),
    'answer': dict(CE, weight=2.0, part='answer'),
    'kl': dict(KL, part='rationale'),
    'sampled': dict(KL, part='sampled'),
    'labels': CE,
  }
  total, sums, d_h, d_w = run(case, terms=terms)
  expected = reference(case, terms)
  np.testing.assert_allclose(total, expected[0], rtol=1e-5)
  for key in terms:
    np.testing.assert_allclose(sums[key], expected[1][key], rtol=1e-5)
  np.testing.assert_allclose(d_h, expected[2], atol=1e-6)
  np.testing.assert_allclose(d_w, expected[3], atol=1e-6)


def test_importance_weights_equal_float64():
  """Tokens that the student sampled have weight min(c, p / q), c = 1.5."""
  case, cap = make_case(batch=3), 1.5
  case['labels'] %= 9  # Of 11 ids, the tokenizer's.
  h, w = (np.asarray(case[k], np.float64) for k in ('h', 'w'))
  log_p = log_softmax((h @ w.T)[..., :9])
  log_p = np.take_along_axis(log_p, case['labels'][..., None], -1)[..., 0]
  change = np.random.default_rng(1).uniform(-1, 2, log_p.shape)
  case['logprobs'] = (log_p - change).astype(np.float32)
  sampled = case['parts'] == types.SAMPLED
  case['importance'] = np.where(sampled, np.minimum(np.exp(change), cap), 1)
  terms = TERMS | {'own': dict(KL, part='sampled', weight=0.4)}
  rule = importance.Importance(cap, vocab_size=9)
  (total, sums), grads = compute(case, terms=terms, importance=rule)
  expected = reference(case, terms)
  np.testing.assert_allclose(total, expected[0], rtol=1e-5)
  for key in terms:
    np.testing.assert_allclose(sums.losses[key], expected[1][key], rtol=1e-5)
  for got, like in zip(grads, expected[2:], strict=True):
    np.testing.assert_allclose(got, like, atol=1e-6)
  counted = sampled & (case['weights'] > 0)
  shown = importance.scalars(sums.importance)
  truncated = (np.exp(change) > cap)[counted].mean()
  assert 0 < truncated < 1
  np.testing.assert_allclose(
    [shown[f'rollout/importance_{x}'] for x in ('weight', 'truncated')],
    [case['importance'][counted].mean(), truncated],
    rtol=1e-5,
  )


def test_a_part_without_targets_adds_nothing():
  case = make_case()
  case['parts'][:] = types.ANSWER
  rationale = {'r': dict(CE, part='rationale')}
  total, sums, d_h, _ = run(case, terms=TERMS | rationale)
  assert sums['r'] == 0
  np.testing.assert_allclose(total, reference(case)[0], rtol=1e-5)
  assert np.isfinite(d_h).all()


def test_zero_weights_give_zero_loss_and_gradient():
  case = make_case()
  case['weights'][:] = 0
  total, sums, d_h, d_w = run(case)
  assert total == 0 and all(s == 0 for s in sums.values())
  assert not np.any(d_h) and not np.any(d_w)


@pytest.mark.parametrize('filler', [np.nan, np.inf, -np.inf])
def test_positions_without_weight_change_nothing(filler):
  case = make_case()
  case['weights'][0, 3] = 0
  clean = run(case)
  silent = case['weights'] == 0
  case['th'][silent] = filler
  case['h'][silent] = filler
  got = run(case)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(clean), strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a, b)
  assert not got[2][silent].any()


def test_a_student_equal_to_its_teacher_has_zero_loss_and_gradient():
  case = make_case()
  case['th'], case['tw'] = case['h'], case['w']
  for name in ('forward_kl', 'reverse_kl', 'jensen_shannon'):
    terms = {'a': base.term(name, temperature=0.5).to_dict()}
    total, _, d_h, d_w = run(case, terms=terms)
    # The compiler may round the two softmaxes differently, in the last bit.
    assert total < 1e-13
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
    parts=np.zeros((1, 4), np.int32),
  )
  terms = {'ce': dict(CE, weight=1.0)}
  for chunk_tokens in (1, 2, 4):
    np.testing.assert_allclose(
      run(case, chunk_tokens, terms)[0], 2.0, rtol=1e-5
    )


def test_low_temperature_in_bfloat16():
  case = make_case()
  case['h'] *= 6
  for name in ('forward_kl', 'reverse_kl', 'jensen_shannon'):
    terms = {'a': base.term(name, temperature=0.05).to_dict()}
    wide = run(case, terms=terms)
    narrow = run(case, terms=terms, dtype=jnp.bfloat16)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(narrow))
    np.testing.assert_allclose(narrow[0], wide[0], rtol=2e-2)


def test_only_positions_that_predict_a_target_count():
  # Prompt of 3 tokens, completion of 2: position 2 predicts its first token,
  # position 4 would predict past the end.
  case = make_case(batch=1, length=5)
  case['weights'] = np.array([[0, 0, 1, 1, 0]], np.float32)
  before = run(case)
  case['th'][0, 4] += 1
  for a, b in zip(jax.tree.leaves(run(case)), jax.tree.leaves(before)):
    np.testing.assert_array_equal(a, b)
  case['th'][0, 2] += 1
  assert run(case)[0] != before[0]


def test_schedules_of_weight_and_temperature():
  ramp = dict(name='linear', begin=0.0, end=1.0, first_step=0, last_step=10)
  hot = dict(name='cosine', begin=1.0, end=3.0, first_step=0, last_step=10)
  terms = {'kl': dict(KL, weight=ramp, temperature=hot), 'ce': CE}
  built, case = build(terms), make_case()
  batch = to_batch(case)
  for step, weight, temperature in ((0, 0, 1), (5, 0.5, 2), (12, 1, 3)):
    settings = built.settings(batch, step)
    total, _ = built.logits_total(
      jnp.asarray(case['h']),
      jnp.asarray(case['w']),
      to_targets(case),
      batch,
      settings,
    )
    fixed = {'kl': dict(KL, weight=weight, temperature=temperature), 'ce': CE}
    np.testing.assert_allclose(total, reference(case, fixed)[0], rtol=1e-5)
    shown = built.scheduled(settings)
    np.testing.assert_allclose(
      [shown['weight/kl'], shown['temperature/kl']],
      [weight, temperature],
      rtol=1e-6,
    )
    assert set(shown) == {'weight/kl', 'temperature/kl'}


def test_losses_do_not_depend_on_chunks_or_row_order():
  # For any terms and weights, chunk size, the order of rows and more padding
  # change nothing.
  rng = np.random.default_rng(0)
  own = {'jensen_shannon': ('beta', 1), 'skewed_reverse_kl': ('skew', 1)}
  names = [*own, 'forward_kl', 'total_variation', 'adaptive_kl']
  for trial in range(4):
    terms = {'ce': dict(CE, label_smoothing=rng.uniform(0, 0.5))}
    for name in rng.choice(names, 2, replace=False):
      changes = {'part': rng.choice(list(PART_OF))}
      changes['temperature'] = rng.uniform(0.3, 3)
      changes['weight'] = rng.uniform(0, 2)
      if name in own:
        changes[own[name][0]] = rng.uniform(0.05, 0.95)
      terms[name] = base.term(name, **changes).to_dict()
    case = make_case(3, 6, vocab=9, teacher_vocab=12, seed=trial)
    case['weights'] *= rng.uniform(size=case['weights'].shape) < 0.6
    want = run(case, 1000, terms)
    order = rng.permutation(3)
    other = {
      k: np.pad(v[order], [(0, 0), (0, 4)] + [(0, 0)] * (v.ndim - 2))
      if k not in ('w', 'tw')
      else v
      for k, v in case.items()
    }
    got = run(other, int(rng.integers(1, 12)), terms)
    np.testing.assert_allclose(got[0], want[0], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(got[2][:, :6], want[2][order], atol=2e-6)
    np.testing.assert_allclose(got[3], want[3], atol=2e-6)


def test_statistics_per_row():
  case = make_case(teacher_vocab=14)
  got = eval_sums.by_row(
    jnp.asarray(case['h']),
    jnp.asarray(case['w']),
    to_targets(case),
    to_batch(case),
    chunk_tokens=4,
  )
  student = np.asarray(case['h'], np.float64) @ case['w'].T
  teacher = (np.asarray(case['th'], np.float64) @ case['tw'].T)[..., :11]
  log_q, log_p = log_softmax(student), log_softmax(teacher)
  picked = np.take_along_axis(log_q, case['labels'][..., None], -1)[..., 0]
  expected = {
    'weight': case['weights'],
    'nll': -picked * case['weights'],
    'accuracy': (student.argmax(-1) == case['labels']) * case['weights'],
    'kl': (np.exp(log_p) * (log_p - log_q)).sum(-1) * case['weights'],
    'agreement': (student.argmax(-1) == teacher.argmax(-1)) * case['weights'],
  }
  for name, values in expected.items():
    np.testing.assert_allclose(got[name], values.sum(-1), rtol=1e-5)
