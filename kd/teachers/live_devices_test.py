"""Teachers on separate devices compute the same targets as on shared ones."""

import dataclasses

import jax
import numpy as np

from kd.core import types
from kd.models import families
from kd.models import model_cases
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import placement
from kd.partitioning import rules
from kd.teachers import host_weights
from kd.teachers import live
from kd.teachers import param_digest

_SPEC = types.TapSpec((0, 1), (1,))


def _batch(rows, length):
  rng = np.random.default_rng(0)
  ids = rng.integers(4, 250, (2, rows, length)).astype(np.int32)
  ones = np.ones((rows, length), np.int32)
  return types.Batch(
    tokens=ids[0],
    targets=ids[1],
    positions=np.cumsum(ones, 1, dtype=np.int32) - 1,
    segment_ids=ones,
    parts=0 * ones,
    weights=ones.astype(np.float32),
    row_id=np.arange(rows, dtype=np.int32),
  )


def _targets(student_mesh, teacher_mesh, batch, on_host=False):
  """Returns the teacher's parameters and its targets of the batch."""
  sizes = families.variant('nano', '')
  kinds = sizes.layer_kinds[:2]
  sizes = dataclasses.replace(sizes, layer_kinds=kinds, vocab_size=264)
  model = families.build(sizes, 'float32', 'none', 'teacher')
  shardings = rules.param_shardings(
    teacher_mesh,
    model.logical_axes(),
    model.abstract_params(),
    'teacher',
  )
  drawn = model_cases.random_params(model.abstract_params())
  params = jax.device_put(drawn, shardings)
  if on_host:
    params = host_weights.to_host(model, params)
  teacher = live.Teacher(model, params, 1.0)
  if batch.teacher is None or batch.teacher.indices is not None:
    # The student's vocabulary lacks the teacher's last rows.
    spec = _SPEC if batch.teacher is None else types.TapSpec((0, 1), ())
    score = live.make([teacher], 260, spec, student_mesh)
  else:
    score = live.make_spans(teacher, 8, student_mesh)
  return params, score(placement.place(batch, student_mesh, 8))


def test_separate_devices_change_no_target():
  devices, batch = jax.devices(), _batch(8, 12)
  shared = mesh_lib.make({'data': 4}, devices[:4])
  own = mesh_lib.make({'fsdp': 2, 'tensor': 2}, devices[4:])
  _, expected = _targets(shared, shared, batch)
  params, found = _targets(shared, own, batch)
  for leaf in jax.tree.leaves(params):
    assert leaf.sharding.device_set <= set(devices[4:])
  assert len(jax.tree.leaves(found)) == len(jax.tree.leaves(expected)) == 7
  for got, like in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(got, like, 2e-5, 2e-5)
    # They are on the update's devices already.
    if got.ndim:
      assert got.sharding.device_set == set(devices[:4])


def test_weights_in_host_memory_change_no_bit():
  devices, batch = jax.devices(), _batch(8, 12)
  mesh = mesh_lib.make({'fsdp': 2, 'tensor': 2}, devices[:4])
  params, expected = _targets(mesh, mesh, batch)
  far, found = _targets(mesh, mesh, batch, on_host=True)
  kinds = [x.sharding.memory_kind for x in jax.tree.leaves(far)]
  assert {host_weights.KIND, 'device'} == set(kinds)
  assert param_digest.of(far) == param_digest.of(params)
  for got, like in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert got.sharding.memory_kind == like.sharding.memory_kind
    np.testing.assert_array_equal(got, like)


def test_teachers_divide_a_batch():
  """Positions have their own mixtures; an unused teacher is skipped."""
  devices, batch = jax.devices(), _batch(8, 12)
  mesh = mesh_lib.make({'data': 2, 'fsdp': 2}, devices[:4])
  params, alone = _targets(mesh, mesh, batch)
  other = jax.tree.map(lambda x: x * 1.1, params)
  (hidden,) = (t.final_hidden for t in alone.distribution.teachers)
  sizes = families.variant('nano', '')
  sizes = dataclasses.replace(
    sizes, layer_kinds=sizes.layer_kinds[:2], vocab_size=264
  )
  model = families.build(sizes, 'float32', 'none', 'teacher')
  teachers = [
    live.Teacher(model, host_weights.to_host(model, x), 0.5)
    for x in (params, other)
  ]
  score = live.make(teachers, 260, live.NO_TAPS, mesh)
  weights = np.zeros((8, 12, 2), np.float32)
  weights[..., 0] = 1
  one = placement.place(batch.replace(teacher_weights=weights), mesh, 8)
  first, second = score(one).distribution.teachers
  np.testing.assert_array_equal(first.final_hidden, hidden)
  assert not np.asarray(second.final_hidden).any()
  weights[4:] = 0.25, 0.75
  weights[6:] = 0, 1
  mixed = placement.place(batch.replace(teacher_weights=weights), mesh, 8)
  mixture = score(mixed).distribution
  chunk = jax.tree.map(lambda x: x[:, 3], mixture.per_position())
  logits = mixture.with_positions(chunk).project(260)
  sums = logits.log_sums(260, 1.0)
  found = np.exp(logits.log_probabilities(sums, 260, 1.0))
  each = []
  for teacher in mixture.teachers:
    table = np.asarray(teacher.unembedding, np.float64)
    e = np.exp(np.asarray(teacher.final_hidden, np.float64)[:, 3] @ table.T)
    each.append(e / e.sum(-1, keepdims=True))
  assert np.abs(each[0] - each[1]).max() > 1e-3
  share = weights[:, 3, :1]
  expected = share * each[0] + (1 - share) * each[1]
  np.testing.assert_allclose(found, expected, 2e-5, 1e-8)


def test_likelihoods_of_spans_are_the_same_on_other_devices():
  devices, batch = jax.devices(), _batch(8, 12)
  pairs = np.repeat(np.arange(1, 7, dtype=np.int32), 2)[None].repeat(8, 0)
  tokens = types.TeacherTokens(
    batch.tokens,
    batch.targets,
    batch.positions,
    batch.segment_ids,
    spans=pairs,
    student_spans=np.where(pairs < 6, pairs, 0),
  )
  batch = batch.replace(teacher=tokens)
  shared = mesh_lib.make({'data': 4}, devices[:4])
  own = mesh_lib.make({'fsdp': 2, 'tensor': 2}, devices[4:])
  (_, expected), (_, found) = (
    _targets(shared, mesh, batch) for mesh in (shared, own)
  )
  got, like = (x.distribution.log_p for x in (found, expected))
  np.testing.assert_allclose(got, like, 2e-5, 2e-5)
  assert got.sharding.device_set == set(devices[:4])
  # Two tokens of about 5.6 nats each, and none beyond the student's spans.
  assert (np.asarray(got)[:, :10] < -6).all() and not got[:, 10:].any()


def test_rows_with_a_prefix_are_the_same_on_other_devices():
  devices, batch, count = jax.devices(), _batch(8, 12), 4
  longer = lambda x: np.concatenate([x[:, :count] + 1, x], axis=1)
  length = np.arange(12 + count, dtype=np.int32)[None].repeat(8, 0)
  places = length[:, count:].copy()
  places[:, 9:] = -1  # Of an example that the teacher lacks.
  own = types.TeacherTokens(
    longer(batch.tokens),
    longer(batch.targets),
    length,
    np.ones_like(length),
    spans=None,
    student_spans=None,
    indices=places,
  )
  batch = batch.replace(teacher=own)
  shared = mesh_lib.make({'data': 2, 'sequence': 2}, devices[:4])
  split = mesh_lib.make({'fsdp': 2, 'tensor': 2}, devices[4:])
  (_, expected), (_, found) = (
    _targets(shared, mesh, batch) for mesh in (shared, split)
  )
  for got, like in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(got, like, 2e-5, 2e-5)
  (dense,) = found.distribution.teachers
  assert dense.final_hidden.shape[:2] == (8, 12)
  assert found.taps.hidden.shape[:3] == (2, 8, 12)
