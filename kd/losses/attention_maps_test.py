"""Attention maps and relations against float64 numpy that keeps whole maps."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import attention_mask
from kd.core import errors
from kd.losses import attention_cases as cases
from kd.losses import attention_maps

PATH = 'losses.maps.relation_heads'


@pytest.mark.parametrize(
  'heads,window,block,distance',
  [
    ('each', None, 3, 'kl'),
    ('each', 3, 2, 'kl'),
    ('mean', None, 7, 'kl'),
    ('mean', 2, 3, 'kl'),
    ('each', 100, 100, 'kl'),
    ('each', 3, 2, 'cosine'),
    ('mean', None, 3, 'cosine'),
  ],
)
def test_value_and_gradient_equal_float64(heads, window, block, distance):
  where = cases.rows(cases.LENGTHS, 7)
  student = cases.make_heads(2, 7, 4, 2, 3)
  count = {'each': 4, 'mean': 6}[heads]
  teacher = cases.make_heads(2, 7, count, 1, 5, seed=5, scale=0.4)
  weights = cases.normal(2, 7, seed=3)
  losses, (gradients, teacher_gradients) = cases.run(
    student, teacher, where, weights, 2.0, window, heads, block, distance
  )
  expected = functools.partial(
    cases.reference,
    positions=where[0],
    segment_ids=where[1],
    window=window,
    temperature=2.0,
    heads=heads,
    distance=distance,
  )
  values = expected(student, teacher)
  assert losses.dtype == jnp.float32 and np.max(values) > 0.1
  np.testing.assert_allclose(losses, values, rtol=1e-5, atol=2e-7)
  total = lambda query, key: np.sum(
    expected(attention_maps.Heads(query, key, student.scale), teacher) * weights
  )
  by_query = cases.differences(lambda x: total(x, student.key), student.query)
  by_key = cases.differences(lambda x: total(student.query, x), student.key)
  for x, gradient in zip(gradients, (by_query, by_key)):
    np.testing.assert_allclose(x, gradient, rtol=1e-4, atol=1e-6)
  for x in teacher_gradients:
    np.testing.assert_array_equal(x, 0)
  # Padding, and tokens that attend only to themselves.
  alone = np.append(losses[0, 6:], losses[:, 0])
  assert np.all(np.abs(alone) <= (1e-12 if distance == 'cosine' else 0))


@pytest.mark.parametrize('window', [None, 5])
def test_block_size_changes_nothing(window):
  length = 23
  where = cases.rows([(9, 11), (23,)], length)
  student = cases.make_heads(2, length, 2, 1, 4)
  teacher = cases.make_heads(2, length, 2, 2, 6, seed=5)
  weights = cases.normal(2, length, seed=3)
  whole = cases.run(
    student, teacher, where, weights, 1.0, window, 'each', length
  )
  for block in (1, 8):
    got = cases.run(
      student, teacher, where, weights, 1.0, window, 'each', block
    )
    for x, expected in zip(jax.tree.leaves(got), jax.tree.leaves(whole)):
      np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_positions_of_an_image_attend_to_each_other_within_the_window():
  length, tokens = 23, 5
  images = np.zeros((2, length), np.int32)
  # Adjacent images; at the end of a segment and the start of the next one.
  images[0, 1:6], images[0, 6:11] = 1, 2
  images[1, 4:9], images[1, 9:14] = 1, 2
  *where, images = *cases.rows([(15, 8), (9, 13)], length), images
  student = cases.make_heads(2, length, 2, 1, 4)
  teacher = cases.make_heads(2, length, 2, 2, 6, seed=5)
  weights = cases.normal(2, length, seed=3)
  for window in (3, None):
    expected = cases.reference(
      student, teacher, *where, window, 1.0, image_ids=images
    )
    others = cases.reference(student, teacher, *where, window, 1.0)
    assert (abs(others - expected) > 1e-3).sum() > 10
    whole = None
    for block in (length, 4):
      got = cases.run(
        *(student, teacher, (*where, images), weights, 1.0, window, 'each'),
        *(block, 'kl', tokens),
      )
      np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-6)
      whole = whole or got
      for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(whole)):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('heads', ['each', 'mean'])
def test_equal_models_have_zero_loss_and_gradient(heads, dtype):
  # Long enough for the compiler to sum some rows in another order.
  where = cases.rows([(90, 60), (200,)], 200)
  student = cases.make_heads(2, 200, 6, 2, 8, scale=3.0)
  student = student._replace(
    query=jnp.asarray(student.query, dtype), key=jnp.asarray(student.key, dtype)
  )
  out = cases.run(
    student, student, where, np.ones((2, 200)), 1.0, 70, heads, 32
  )
  for x in jax.tree.leaves(out):
    np.testing.assert_array_equal(x, 0)


def test_more_padding_changes_nothing():
  student = cases.make_heads(2, 7, 4, 2, 3)
  teacher = cases.make_heads(2, 7, 4, 1, 5, seed=5)
  weights = cases.normal(2, 7, seed=3)
  short = cases.run(
    student, teacher, cases.rows(cases.LENGTHS, 7), weights, 1.0, 4, 'each', 3
  )

  def pad(x):
    # Values at padding must not matter.
    widths = [(0, 0), (0, 9)] + [(0, 0)] * (x.ndim - 2)
    return np.pad(x, widths, constant_values=np.nan)

  student, teacher = (
    x._replace(query=pad(x.query), key=pad(x.key)) for x in (student, teacher)
  )
  weights = np.pad(weights, [(0, 0), (0, 9)], constant_values=1)
  where = cases.rows(cases.LENGTHS, 16)
  long = cases.run(student, teacher, where, weights, 1.0, 4, 'each', 3)
  for x, expected in zip(jax.tree.leaves(long), jax.tree.leaves(short)):
    np.testing.assert_allclose(x[:, :7], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(x[:, 7:], 0)


@pytest.mark.parametrize('window', [None, 3])
def test_packed_segments_equal_single_documents(window):
  sizes = (4, 1, 4)
  student = cases.make_heads(1, 9, 4, 2, 3)
  teacher = cases.make_heads(1, 9, 4, 1, 5, seed=5)
  weights = cases.normal(1, 9, seed=3)
  packed = cases.run(
    student, teacher, cases.rows([sizes], 9), weights, 1.0, window, 'each', 2
  )

  def check(start, size):
    cut = lambda x: x[:, start : start + size]
    alone = cases.run(
      student._replace(query=cut(student.query), key=cut(student.key)),
      teacher._replace(query=cut(teacher.query), key=cut(teacher.key)),
      cases.rows([(size,)], size),
      cut(weights),
      1.0,
      window,
      'each',
      2,
    )
    for x, expected in zip(jax.tree.leaves(packed), jax.tree.leaves(alone)):
      np.testing.assert_allclose(cut(x), expected, rtol=1e-5, atol=1e-6)

  for start, size in zip((0, 4, 5), sizes):
    check(start, size)


@pytest.mark.parametrize('heads', attention_maps.HEADS)
def test_large_logits_stay_finite(heads):
  where = cases.rows(cases.LENGTHS, 7)
  for sizes in ((2e3, 2e3), (2e3, 0.0), (0.0, 2e3)):
    student = cases.make_heads(2, 7, 4, 2, 3, scale=sizes[0])
    teacher = cases.make_heads(2, 7, 4, 1, 5, seed=5, scale=sizes[1])
    out = cases.run(
      student, teacher, where, np.ones((2, 7)), 0.5, None, heads, 3
    )
    expected = cases.reference(student, teacher, *where, None, 0.5, heads)
    np.testing.assert_allclose(out[0], expected, rtol=1e-4, atol=1e-2)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))


def test_gradients_of_bfloat16_keys_are_summed_in_float32():
  length = 512
  where = cases.rows([(length,)], length)
  student = cases.make_heads(1, length, 2, 1, 8, scale=0.3)
  # All queries agree, so that each adds to a key's gradient in one direction.
  student.query[:] = student.query[:, :1]
  teacher = cases.make_heads(1, length, 2, 1, 8, seed=5, scale=0.3)
  round_ = lambda x: jnp.asarray(x, jnp.bfloat16)
  narrow = [
    x._replace(query=round_(x.query), key=round_(x.key))
    for x in (student, teacher)
  ]
  float32 = lambda x: jnp.asarray(x, jnp.float32)
  wide = [
    x._replace(query=float32(x.query), key=float32(x.key)) for x in narrow
  ]
  weights = np.ones((1, length))
  got, expected = (
    float32(cases.run(*pair, where, weights, 1.0, None, 'each', block)[1][0][1])
    for pair, block in ((narrow, 1), (wide, length))
  )
  error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
  assert error < 3e-3


def largest_array(text):
  shapes = re.findall(r'[a-z]\w*\[([\d,]+)\]', text)
  return max(math.prod(int(d) for d in shape.split(',')) for shape in shapes)


@pytest.mark.parametrize('heads', ['each', 'mean'])
def test_no_array_contains_whole_maps(heads):
  batch, length, n = 2, 256, 4
  where = cases.rows([(length,)] * batch, length)
  student = cases.make_heads(batch, length, n, 2, 8)
  teacher = cases.make_heads(batch, length, n, 1, 8, seed=5)

  def largest(window, block):
    arguments = student, teacher, where, jnp.ones((batch, length)), 1.0
    return largest_array(
      cases.run.lower(*arguments, window, heads, block).compile().as_text()
    )

  row = batch * n * length
  assert largest(None, length) >= row * length
  # Only one block's maps exist, forward and backward.
  assert largest(None, 32) == row * 32
  # Queries of a local layer are compared only with keys in the window.
  assert largest(16, 16) == batch * length * n * 8


def relation_reference(student, teacher, relation_heads, *arguments):
  """Splits heads side by side into relation heads by hand."""

  def relate(x):
    flat = np.concatenate([x[:, :, i] for i in range(x.shape[2])], axis=-1)
    width = flat.shape[-1] // relation_heads
    split = np.stack(
      [flat[..., r * width : (r + 1) * width] for r in range(relation_heads)],
      axis=2,
    )
    return attention_maps.Heads(split, split, 1 / math.sqrt(width))

  return cases.reference(relate(student), relate(teacher), *arguments)


@pytest.mark.parametrize('relation_heads', [1, 2, 4])
def test_relations_equal_float64(relation_heads):
  positions, segment_ids = cases.rows(cases.LENGTHS, 7)
  student, teacher = cases.normal(2, 7, 3, 4), cases.normal(2, 7, 2, 8, seed=1)
  weights = cases.normal(2, 7, seed=3)

  def total(student, teacher):
    losses = attention_maps.relation_loss(
      student,
      teacher,
      attention_mask.Positions(positions, segment_ids),
      relation_heads=relation_heads,
      window=5,
      temperature=1.5,
      block=3,
    )
    return jnp.sum(losses * weights), losses

  gradients, losses = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(
    student, teacher
  )
  expected = lambda x: relation_reference(
    x, teacher, relation_heads, positions, segment_ids, 5, 1.5
  )
  np.testing.assert_allclose(losses, expected(student), rtol=1e-5, atol=1e-6)
  gradient = cases.differences(lambda x: np.sum(expected(x) * weights), student)
  np.testing.assert_allclose(gradients[0], gradient, rtol=1e-4, atol=1e-6)
  assert not np.any(gradients[1])


def test_wrong_relation_heads_are_named():
  attention_maps.check_relation_heads(8, 1024, 2048, PATH)
  for found in (3, 16, 0, -2, 2.0):
    with pytest.raises(errors.ConfigError) as e:
      attention_maps.check_relation_heads(found, 1024, 24, PATH)
    for part in (PATH, str(found), '1024', '24', 'a divisor of 8'):
      assert part in str(e.value)


def test_wrong_heads_are_named():
  attention_maps.check_heads('each', 4, 4, PATH)
  attention_maps.check_heads('mean', 4, 8, PATH)
  for arguments, parts in (
    (('each', 4, 8), (PATH, 'found 4', '8 in the teacher', "'mean'")),
    (('men', 4, 4), (PATH, 'men', 'each, mean', "'mean'")),
  ):
    with pytest.raises(errors.ConfigError) as e:
      attention_maps.check_heads(*arguments, PATH)
    assert all(part in str(e.value) for part in parts), str(e.value)
