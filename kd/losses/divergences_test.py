"""Divergences against float64 numpy written from the papers' formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.losses import divergences

SPECS = [
  dict(name='forward_kl'),
  dict(name='reverse_kl'),
  dict(name='jensen_shannon', beta=0.1),
  dict(name='jensen_shannon', beta=0.5),
  dict(name='jensen_shannon', beta=0.9),
  dict(name='skewed_forward_kl', skew=0.1),
  dict(name='skewed_forward_kl', skew=0.6),
  dict(name='skewed_reverse_kl', skew=0.1),
  dict(name='skewed_reverse_kl', skew=0.6),
  dict(name='total_variation'),
  dict(name='alpha_beta', alpha=0.5, beta=0.5),
  dict(name='alpha_beta', alpha=1, beta=1),
  dict(name='alpha_beta', alpha=0.2, beta=0.7),
  dict(name='alpha_beta', alpha=2.0, beta=0.01),
  dict(name='alpha_beta', alpha=0.0, beta=0.6),
  dict(name='alpha_beta', alpha=0.7, beta=0.0),
  dict(name='adaptive_kl', head_mass=0.5),
  dict(name='adaptive_kl', head_mass=0.9),
]


def spec_id(spec):
  parts = [f'{v:.3g}' if isinstance(v, float) else v for v in spec.values()]
  return '-'.join(map(str, parts))


every_divergence = pytest.mark.parametrize('spec', SPECS, ids=spec_id)
FLOOR = -1e5
COUNT, VOCAB = 256, 23


def build(**spec):
  return divergences.DIVERGENCES.build(spec, 'losses.kd')


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl(log_x, log_y, linear=0):
  """x log(x / y) of each id; `linear` adds y - x, for measures."""
  x = np.exp(log_x)
  parts = np.where(x > 0, x * (log_x - log_y), 0.0)
  return parts + linear * (np.exp(log_y) - x)


def log_mix(log_x, log_y, share):
  return np.logaddexp(np.log(share) + log_x, np.log1p(-share) + log_y)


def head_share(log_p, log_q, head_mass):
  """The forward KL's weight in adaptive_kl, by sorting."""
  p, q = np.exp(log_p), np.exp(log_q)
  shares = []
  for p_i, q_i in zip(p.reshape(-1, p.shape[-1]), q.reshape(-1, p.shape[-1])):
    order = np.argsort(-p_i)
    last = np.searchsorted(np.cumsum(p_i[order]), head_mass)
    head = p_i >= p_i[order[min(last, len(p_i) - 1)]]
    gaps = np.abs(p_i - q_i)
    shares.append(gaps[head].sum() / gaps.sum() if gaps.any() else 0.5)
  return np.reshape(shares, (*p.shape[:-1], 1))


def textbook(spec, log_p, log_q, linear=0, share=None):
  """Each id's part as the paper sums it; `share` fixes adaptive weights."""
  name = spec['name']
  if name == 'forward_kl':
    return kl(log_p, log_q, linear)
  if name == 'reverse_kl':
    return kl(log_q, log_p, linear)
  if name == 'jensen_shannon':
    beta = spec['beta']
    m = log_mix(log_p, log_q, beta)
    return beta * kl(log_p, m, linear) + (1 - beta) * kl(log_q, m, linear)
  if name == 'skewed_forward_kl':
    return kl(log_p, log_mix(log_p, log_q, spec['skew']), linear)
  if name == 'skewed_reverse_kl':
    return kl(log_q, log_mix(log_q, log_p, spec['skew']), linear)
  if name == 'total_variation':
    return np.abs(np.exp(log_p) - np.exp(log_q)) / 2
  if name == 'adaptive_kl':
    if share is None:
      share = head_share(log_p, log_q, spec['head_mass'])
    forward, reverse = kl(log_p, log_q, linear), kl(log_q, log_p, linear)
    return share * forward + (1 - share) * reverse
  a, b = spec['alpha'], spec['beta']
  if b == 0:
    return kl(a * log_p, a * log_q, 1) / a**2
  if a == 0:
    return kl(b * log_q, b * log_p, 1) / b**2
  s = a + b
  powers = a / s * np.exp(s * log_p) + b / s * np.exp(s * log_q)
  return (powers - np.exp(a * log_p + b * log_q)) / (a * b)


def reference(spec, student, teacher, temperature):
  """T^power x divergence, and its gradient by central differences.

  In float64 from logits [..., V]; log-probabilities stop at the floor.
  """
  power = 1 if spec['name'] == 'total_variation' else 2
  log_p = np.maximum(log_softmax(teacher / temperature), FLOOR)

  def log_q_of(student):
    return np.maximum(log_softmax(student / temperature), FLOOR)

  share = None
  if spec['name'] == 'adaptive_kl':
    share = head_share(log_p, log_q_of(student), spec['head_mass'])

  def value(student):
    parts = textbook(spec, log_p, log_q_of(student), share=share)
    return parts.sum(-1) * temperature[..., 0] ** power

  step = 1e-5 * temperature[..., 0]
  gradient = np.zeros_like(student)
  for i in range(student.shape[-1]):
    shift = np.zeros_like(student)
    shift[..., i] = step
    difference = value(student + shift) - value(student - shift)
    gradient[..., i] = difference / (2 * step)
  return value(student), gradient


def losses(divergence, student, teacher, temperature):
  parts = divergence.integrand(
    jax.nn.log_softmax(teacher / temperature),
    jax.nn.log_softmax(student / temperature),
  )
  power = divergence.temperature_power
  return parts.sum(-1) * jnp.squeeze(temperature, -1) ** power


@functools.cache
def compiled(spec):
  divergence = build(**dict(spec))

  def total(*rows):
    values = losses(divergence, *rows)
    return values.sum(), values

  return jax.jit(jax.value_and_grad(total, has_aux=True))


def value_and_gradient(spec, *rows):
  """Losses [...] and gradients in the student's logits, by row."""
  # Most tests share the shape COUNT, VOCAB, since compilation is slow.
  both = compiled(tuple(spec.items()))
  (_, value), gradient = both(*(jnp.asarray(x, jnp.float32) for x in rows))
  return np.asarray(value), np.asarray(gradient)


def ones(rows):
  return np.ones((*np.shape(rows)[:-1], 1), np.float32)


def random_rows(rng, count, vocab):
  """Student, teacher and temperature for rows of alternating kinds."""
  scale = rng.choice([0.1, 1.0, 8.0], (count, 1))
  student = rng.normal(size=(count, vocab)) * scale
  teacher = rng.normal(size=(count, vocab)) * scale
  temperature = rng.choice([0.05, 1.0, 4.0], (count, 1))
  kind = np.arange(count)[:, None] % 8
  suppressed = rng.random((count, vocab)) < 0.3
  suppressed[:, 0] = False
  teacher = np.where(kind == 1, student + 0.1 * teacher, teacher)
  student = np.where((kind == 2) & suppressed, -np.inf, student)
  teacher = np.where((kind == 2) & suppressed, -np.inf, teacher)
  teacher = np.where((kind == 3) & suppressed, -np.inf, teacher)
  student = np.where((kind == 4) & suppressed, -np.inf, student)
  # Probabilities 0 and 1.
  student = np.where(kind == 5, 1e4 * np.round(student / scale), student)
  student = np.where(kind == 6, student / scale, student)
  one = np.arange(vocab) == rng.integers(0, vocab, (count, 1))
  teacher = np.where(kind == 6, np.where(one, 0.0, -np.inf), teacher)
  temperature = np.where((kind == 5) | (kind == 6), 1.0, temperature)
  teacher = np.where(kind == 7, np.round(teacher), teacher)  # Ties.
  rows = (student, teacher, temperature)
  return [x.astype(np.float32) for x in rows], kind[:, 0]


def random_specs(rng, count):
  """Divergences whose arguments lie anywhere in their range."""
  draw = lambda: float(rng.choice([rng.uniform(), 0.001, 0.999]))
  for _ in range(count):
    name = rng.choice([s['name'] for s in SPECS if len(s) > 1])
    spec = {key: draw() for key in next(s for s in SPECS if s['name'] == name)}
    if name == 'alpha_beta':
      spec = {key: 0.1 + 2 * value for key, value in spec.items()}
    yield spec | {'name': str(name)}


@pytest.mark.parametrize(
  'spec', [*SPECS, *random_specs(np.random.default_rng(0), 12)], ids=spec_id
)
def test_values_and_gradients_equal_the_papers(spec):
  rows, kind = random_rows(np.random.default_rng(len(str(spec))), COUNT, VOCAB)
  value, gradient = value_and_gradient(spec, *rows)
  assert np.isfinite(value).all() and np.isfinite(gradient).all()
  assert (value >= 0).all()
  wide = [x.astype(np.float64) for x in rows]
  expected, differences = reference(spec, *wide)
  # A log-probability of x nats is rounded by up to 6e-8 x; rows of kind 5 are
  # whole numbers.
  finite = [np.where(np.isfinite(x), x, 0.0) for x in wide[:2]]
  size = np.max([np.ptp(x, -1) for x in finite], 0) / wide[2][:, 0]
  relative = np.where(kind == 5, 1e-6, 1e-6 + 3e-7 * size)
  if spec['name'] == 'adaptive_kl':
    # The weights are a ratio of gaps, which are differences of probabilities.
    p, q = (np.exp(log_softmax(x / wide[2])) for x in wide[:2])
    relative += 2e-7 / np.maximum(np.abs(p - q).sum(-1), 1e-7)
  error = np.abs(value - expected)
  unit = wide[2][:, 0] ** build(**spec).temperature_power
  error /= relative * expected + 2e-7 * unit
  assert error.max() < 1, (kind[error.argmax()], error.max())
  # Finite differences see no derivative through the floor.
  error = np.abs(gradient - differences).max(-1)
  error /= relative * np.abs(differences).max(-1) + 1e-6 + 1e-6 * expected
  error[kind == 4] = 0
  if spec['name'] == 'total_variation':
    error[kind == 1] = 0  # So close that rounding crosses the kink at p = q.
  assert error.max() < 10, (kind[error.argmax()], error.max())


@every_divergence
def test_contributions_are_accurate_at_any_gap(spec):
  # For measures: the linear term makes each single contribution positive, and
  # float64 needs no series where p is close to q.
  rng = np.random.default_rng(0)
  count = 4001
  log_p = rng.uniform(-10, -0.5, count).astype(np.float32)
  gap = np.exp(rng.uniform(np.log(1e-2), np.log(40), count))
  gap *= rng.choice([-1, 1], count)
  log_q = np.minimum(log_p + gap, 0).astype(np.float32)
  wide = log_p.astype(np.float64), log_q.astype(np.float64)
  share = None
  if spec['name'] == 'adaptive_kl':
    share = head_share(*wide, spec['head_mass'])
  expected = textbook(spec, *wide, linear=1, share=share)
  integrand = build(**spec).integrand

  def total(log_q):
    parts = integrand(log_p, log_q)
    return parts.sum(), parts

  slope, value = jax.jit(jax.grad(total, has_aux=True))(log_q)
  np.testing.assert_allclose(value, expected, rtol=2e-5)
  # Slopes as a share of the largest power that they are a difference of.
  step = 1e-6
  differences = [
    textbook(spec, wide[0], wide[1] + s, linear=1, share=share)
    for s in (step, -step)
  ]
  expected = (differences[0] - differences[1]) / (2 * step)
  power = spec['alpha'] + spec['beta'] if 'alpha' in spec else 1
  scale = np.exp(power * np.maximum(*wide)) / (spec.get('alpha', 1) or 1)
  error = np.abs(slope - expected) / scale
  np.testing.assert_array_less(error, 1e-6 * np.maximum(1, np.abs(gap)))


@every_divergence
def test_equal_inputs_have_zero_loss_and_gradient(spec):
  rng = np.random.default_rng(0)
  student = (rng.normal(size=(9, 517)) * 5).astype(np.float32)
  student[1, ::3] = -np.inf
  student[2] *= 1e3
  student[3, 1:] = -np.inf
  student[4] = 0
  temperature = np.array([[1.0]] * 5 + [[0.05], [0.7], [3.0], [1e3]])
  value, gradient = value_and_gradient(spec, student, student, temperature)
  assert (value == 0).all() and (gradient == 0).all()


@every_divergence
def test_ids_impossible_in_both_models_change_nothing(spec):
  rows = np.random.default_rng(1).normal(size=(2, COUNT, VOCAB))
  keep = np.arange(VOCAB) % 4 != 1
  expected = reference(spec, *rows[:, :, keep], ones(rows[0]))
  value, gradient = value_and_gradient(
    spec, *np.where(keep, rows, -np.inf), ones(rows[0])
  )
  np.testing.assert_allclose(value, expected[0], rtol=1e-5)
  np.testing.assert_allclose(gradient[:, keep], expected[1], atol=1e-6)
  assert (gradient[:, ~keep] == 0).all()


@pytest.mark.parametrize(
  'spec,ruled_out_by_student,ruled_out_by_teacher',
  [
    (dict(name='forward_kl'), 0.25 * 1e5, np.log(4 / 3)),
    (dict(name='reverse_kl'), np.log(4 / 3), 0.25 * 1e5),
    (dict(name='skewed_forward_kl', skew=0), 0.25 * 1e5, np.log(4 / 3)),
    (dict(name='skewed_reverse_kl', skew=0), np.log(4 / 3), 0.25 * 1e5),
    (dict(name='total_variation'), 0.25, 0.25),
    (dict(name='skewed_forward_kl', skew=0.1), -0.25 * np.log(0.1), 0),
  ],
)
def test_losses_of_an_id_impossible_in_one_model(
  spec, ruled_out_by_student, ruled_out_by_teacher
):
  even = np.zeros(4)
  without = np.array([-np.inf, 0, 0, 0])
  if spec == dict(name='skewed_forward_kl', skew=0.1):
    # KL over the other ids: from 1/4 to 0.1 / 4 + 0.9 / 3, and back.
    ruled_out_by_student -= 0.75 * np.log(0.1 + 0.9 * 4 / 3)
    ruled_out_by_teacher -= np.log(0.1 + 0.9 * 3 / 4)
  got = [
    value_and_gradient(spec, *pair, ones(even))
    for pair in ((without, even), (even, without))
  ]
  np.testing.assert_allclose(got[0][0], ruled_out_by_student, rtol=1e-4)
  np.testing.assert_allclose(got[1][0], ruled_out_by_teacher, rtol=1e-4)
  assert np.isfinite([got[0][1], got[1][1]]).all()


@every_divergence
def test_large_gaps_at_low_temperature_stay_accurate(spec):
  # Logits 60 apart, 1200 after the division.
  rng = np.random.default_rng(3)
  rows = rng.uniform(-30, 30, (2, COUNT, VOCAB))
  rows[0, :, :2] = 30, -30
  rows[1, :, 1:3] = 30, -30
  values = []
  for dtype in (jnp.float32, jnp.bfloat16):
    rounded = np.asarray(jnp.asarray(rows, dtype), np.float32)
    temperature = np.float32(0.05) * ones(rows[0])
    value, gradient = value_and_gradient(spec, *rounded, temperature)
    assert np.isfinite(gradient).all()
    wide = [x.astype(np.float64) for x in (*rounded, temperature)]
    expected, _ = reference(spec, *wide)
    np.testing.assert_allclose(value, expected, rtol=3e-4, atol=1e-9)
    values.append(value.mean())
  np.testing.assert_allclose(*values, rtol=0.02)


def test_gradient_is_student_minus_teacher():
  rows = np.random.default_rng(1).normal(size=(2, COUNT, VOCAB))
  expected = np.exp(log_softmax(rows[0])) - np.exp(log_softmax(rows[1]))
  _, gradient = value_and_gradient(SPECS[0], *rows, ones(rows[0]))
  np.testing.assert_allclose(gradient, expected, atol=2e-7)


@pytest.mark.parametrize('spec', [SPECS[0], SPECS[-1]], ids=spec_id)
def test_the_teacher_has_no_gradient(spec):
  student, teacher = np.random.default_rng(1).normal(size=(2, 3, 9))
  total = lambda t: losses(build(**spec), student, t, ones(student)).sum()
  assert (jax.grad(total)(teacher) == 0).all()


@every_divergence
def test_temperature_keeps_the_scale_of_gradients(spec):
  rows = np.full((2, COUNT, VOCAB), -np.inf)
  rows[0, :, :3] = 0.5, 0, -0.5
  rows[1, :, :3] = 1, 0, -1
  temperature = ones(rows[0])
  temperature[1:3, 0] = 10, 100
  _, gradient = value_and_gradient(spec, *rows, temperature)
  norms = np.linalg.norm(gradient, axis=-1)
  np.testing.assert_allclose(norms[2], norms[1], rtol=0.15)
  if spec['name'] == 'forward_kl':
    np.testing.assert_allclose(norms[:2], [0.196, 0.235], atol=1e-3)


def test_only_adaptive_kl_needs_the_whole_distribution():
  names = {s['name'] for s in SPECS if build(**s).needs_whole_distribution}
  assert names == {'adaptive_kl'}
  assert divergences.DIVERGENCES.names() == sorted({s['name'] for s in SPECS})


def test_the_head_is_computed_without_sorting():
  p = np.array([0.25, 0.125, 0.25, 0.0625, 0.125, 0.1875])
  q = np.array([0.1, 0.3, 0.2, 0.25, 0.1, 0.05])
  # Ids in the head by mass: both of 1/4 up to 1/2, which is exact, then 3/16,
  # then both of 1/8, then all.
  heads = {0.2: 2, 0.5: 2, 0.51: 3, 0.68: 3, 0.69: 5, 0.93: 5, 0.94: 6}
  gaps = np.abs(p - q)[[0, 2, 5, 1, 4, 3]]
  forward, reverse = (kl(np.log(x), np.log(y)) for x, y in ((p, q), (q, p)))
  for mass, size in heads.items():
    share = gaps[:size].sum() / gaps.sum()
    integrand = build(name='adaptive_kl', head_mass=mass).integrand
    got = integrand(jnp.log(p), jnp.log(q)).sum()
    expected = share * forward.sum() + (1 - share) * reverse.sum()
    np.testing.assert_allclose(got, expected, rtol=2e-6)
  assert 'sort' not in str(jax.make_jaxpr(integrand)(p, q))
