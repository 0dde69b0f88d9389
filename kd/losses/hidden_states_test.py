"""The linear path and its losses against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.losses import hidden_states

EPSILON = 1e-6


def normal(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=shape)).astype(np.float32)


def wide(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def rms_norm(x, weight=1.0):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * weight


def reference(kind, params, student, teacher):
  """Mean loss of the pairs, [B, L], in float64."""
  total = 0
  for i in range(len(student)):
    x = student[i]
    if 'norm' in params:
      x = rms_norm(x, 1 + params['norm']['scale'][i])
    x = x @ params['projection']['kernel'][i]
    if kind == 'mse':
      total += ((x - rms_norm(teacher[i])) ** 2).mean(-1)
    else:
      norms = [np.sqrt((y * y).sum(-1)) for y in (x, teacher[i])]
      total += 1 - (x * teacher[i]).sum(-1) / (norms[0] * norms[1])
  return total / len(student)


def make_params(pairs, student_width, teacher_width, norm):
  keys = jax.random.split(jax.random.key(0), pairs)
  init = lambda key: hidden_states.init_projection(
    key, student_width, teacher_width, norm
  )
  params = jax.jit(jax.vmap(init))(keys)
  if norm:
    params['norm']['scale'] += normal(pairs, student_width, scale=0.3)
  return params


@pytest.mark.parametrize('norm', [True, False])
@pytest.mark.parametrize('kind', ['mse', 'cosine'])
def test_value_and_gradient_equal_float64(kind, norm):
  params = make_params(3, 5, 7, norm)
  student = normal(3, 2, 4, 5, seed=1, scale=2)
  teacher = normal(3, 2, 4, 7, seed=2, scale=3000)
  weights = normal(2, 4, seed=3)

  def total(params, student, teacher):
    losses = hidden_states.layers_loss(
      kind, params, student, teacher, 0.0, None
    )
    return jnp.sum(losses * weights), losses

  both = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
  (_, losses), gradients = jax.jit(both)(params, student, teacher)
  arguments = [wide(x) for x in (params, student, teacher)]
  np.testing.assert_allclose(losses, reference(kind, *arguments), rtol=1e-5)
  assert not np.any(gradients[2])

  leaves, structure = jax.tree.flatten(arguments[:2])
  for index, got in enumerate(jax.tree.leaves(gradients[:2])):
    expected = np.zeros(got.shape)
    for place in np.ndindex(got.shape):
      ends = []
      for step in (1e-6, -1e-6):
        moved = list(leaves)
        moved[index] = leaves[index].copy()
        moved[index][place] += step
        at = structure.unflatten(moved)
        ends.append((reference(kind, *at, arguments[2]) * weights).sum())
      expected[place] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('kind', ['mse', 'cosine'])
def test_equal_states_have_zero_loss_and_gradient(kind, dtype):
  params = make_params(2, 64, 64, norm=False)
  if kind == 'mse':
    params['norm'] = {'scale': jnp.zeros((2, 64))}
  hidden = jnp.asarray(normal(2, 3, 5, 64, scale=1000), dtype)

  def total(params, student):
    losses = hidden_states.layers_loss(kind, params, student, hidden, 0.0, None)
    return jnp.sum(losses), losses

  both = jax.grad(total, argnums=(0, 1), has_aux=True)
  gradients, losses = jax.jit(both)(params, hidden)
  np.testing.assert_array_equal(losses, 0)
  for gradient in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('kind', ['mse', 'cosine'])
def test_zero_vectors_and_large_entries_stay_finite(kind):
  params = make_params(1, 6, 6, norm=True)
  student, teacher = normal(1, 1, 4, 6, seed=1), normal(1, 1, 4, 6, seed=2)
  student[0, 0, 0] = teacher[0, 0, 1] = 0
  student[0, 0, 2] *= 1e18
  teacher[0, 0, 2] *= 1e18
  student[0, 0, 3] *= 1e-30
  teacher[0, 0, 3] *= 1e-30

  def total(params, student, teacher):
    losses = hidden_states.layers_loss(
      kind, params, student, teacher, 0.0, None
    )
    return jnp.sum(losses), losses

  both = jax.grad(total, argnums=(0, 1), has_aux=True)
  gradients, losses = jax.jit(both)(params, student, teacher)
  for x in jax.tree.leaves((gradients, losses)):
    assert np.isfinite(x).all()
  if kind == 'cosine':
    # Zero vectors have loss 1. Otherwise the scale does not matter.
    np.testing.assert_array_equal(losses[0, :2], 1)
    expected = hidden_states.cosine(student * 1e20, teacher)[0, 0, 3]
    got = hidden_states.cosine(student, teacher)[0, 0, 3]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_bfloat16_states_are_summed_in_float32():
  params = make_params(1, 512, 640, norm=True)
  student, teacher = normal(1, 1, 3, 512), normal(1, 1, 3, 640, seed=1)
  student, teacher = (jnp.asarray(x, jnp.bfloat16) for x in (student, teacher))
  for kind in hidden_states.KINDS:
    loss = jax.jit(hidden_states.layers_loss, static_argnums=(0, 4))
    got = loss(kind, params, student, teacher, 0.0, None)
    expected = reference(kind, *wide((params, student, teacher)))
    np.testing.assert_allclose(got, expected, rtol=2e-3)
  # The factors of products are bfloat16, but sums are not.
  kernel = params['projection']['kernel'][0]
  path = {'projection': {'kernel': kernel}}
  got = hidden_states.apply_projection(path, student[0], 0.0, None)
  expected = wide(student[0]) @ wide(kernel.astype(jnp.bfloat16))
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_dropout_is_between_norm_and_projection():
  hidden = normal(4, 1000, 8, scale=5)
  params = hidden_states.init_projection(jax.random.key(0), 8, 8, norm=True)
  rng = jax.random.key(1)
  got = hidden_states.apply_projection(params, hidden, 0.25, rng)
  dropped = got == 0
  assert abs(dropped.mean() - 0.25) < 0.01
  # Kept entries are those of the norm of the whole state over 0.75.
  expected = np.where(dropped, 0, rms_norm(hidden) / 0.75)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  # Entries of the state are dropped, not those of its projection.
  params['projection']['kernel'] = jnp.ones((8, 1))
  np.testing.assert_allclose(
    hidden_states.apply_projection(params, hidden, 0.25, rng)[..., 0],
    expected.sum(-1),
    rtol=1e-4,
    atol=1e-4,
  )


def test_each_pair_has_its_own_dropout():
  params = make_params(2, 16, 16, norm=True)
  params['norm']['scale'] *= 0
  row = normal(1, 1, 32, 16)
  hidden = np.concatenate([row, row])
  loss = jax.jit(
    lambda rng: hidden_states.layers_loss(
      'mse', params, hidden, hidden, 0.25, rng
    )
  )

  @jax.jit
  def alone(key):
    own = jax.tree.map(lambda x: x[0], params)
    projected = hidden_states.apply_projection(own, row[0], 0.25, key)
    return hidden_states.mse(projected, row[0])

  rng = jax.random.key(3)
  keys = jax.random.split(rng)
  expected = (alone(keys[0]) + alone(keys[1])) / 2
  np.testing.assert_allclose(loss(rng), expected, rtol=1e-6)
  assert np.any(alone(keys[0]) != alone(keys[1]))


def test_initial_projections():
  same = hidden_states.init_projection(jax.random.key(0), 6, 6, norm=True)
  np.testing.assert_array_equal(same['projection']['kernel'], np.eye(6))
  np.testing.assert_array_equal(same['norm']['scale'], np.zeros(6))
  other = hidden_states.init_projection(jax.random.key(0), 400, 300, norm=False)
  assert set(other) == {'projection'}
  kernel = other['projection']['kernel']
  assert kernel.shape == (400, 300) and kernel.dtype == jnp.float32
  np.testing.assert_allclose(np.std(kernel), 400**-0.5, rtol=0.01)


def test_memory_is_that_of_one_pair():
  def temporaries(pairs):
    params = make_params(pairs, 8, 64, norm=True)
    student, teacher = (
      jnp.ones((pairs, 4, 128, 8)),
      jnp.ones((pairs, 4, 128, 64)),
    )
    loss = lambda p, s, t: jnp.sum(
      hidden_states.layers_loss('mse', p, s, t, 0.1, jax.random.key(0))
    )
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(
      params, student, teacher
    )
    return compiled.compile().memory_analysis().temp_size_in_bytes

  state = 4 * 128 * 64 * 4
  assert temporaries(8) - temporaries(2) < state
