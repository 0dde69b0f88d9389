"""Layer terms use the layers of their map."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.core import attention_mask
from kd.core import types
from kd.losses import attention_maps
from kd.losses import hidden_states
from kd.losses import layer_objective
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms

B, L = 2, 5
STUDENT = terms.Sizes(4, 6, 2, 1, 4, 0.5, (2, None, 2, None))
TEACHER = terms.Sizes(6, 8, 4, 2, 4, 0.3, (3, None, 3, None, 3, None))
CONTEXT = terms.Context(steps=10, student=STUDENT, teacher=TEACHER)
layers_loss = jax.jit(hidden_states.layers_loss, static_argnums=(0, 4))


def build(**losses):
  specs = {key: spec.to_dict() for key, spec in losses.items()}
  return objective_lib.Objective(
    term_builder.build(specs, CONTEXT), selection.everywhere(), 8
  )


def shown(sizes, spec, seed):
  """Returns random outputs of the layers in `spec` for these sizes."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  every = types.Taps(
    hidden=normal(sizes.layers, B, L, sizes.width),
    query=normal(sizes.layers, B, L, sizes.heads, sizes.head_width),
    key=normal(sizes.layers, B, L, sizes.kv_heads, sizes.head_width),
    value=normal(sizes.layers, B, L, sizes.kv_heads, sizes.head_width),
  )
  hidden, attention = list(spec.hidden), list(spec.attention)
  chosen = types.Taps(
    hidden=every.hidden[hidden],
    query=every.query[attention],
    key=every.key[attention],
    value=every.value[attention],
  )
  return every, chosen


def make_batch():
  positions = jnp.broadcast_to(jnp.arange(L, dtype=jnp.int32), (B, L))
  weights = jnp.ones((B, L)).at[:, 0].set(0)
  return types.Batch(
    tokens=positions,
    targets=positions,
    positions=positions,
    segment_ids=jnp.ones((B, L), jnp.int32),
    parts=jnp.zeros((B, L), jnp.int32),
    weights=weights,
    row_id=jnp.arange(B),
  )


def run(objective, layer_maps=None, share_path=False):
  student, student_taps = shown(STUDENT, objective.student_taps, 0)
  teacher, teacher_taps = shown(TEACHER, objective.teacher_taps, 1)
  paths, first_maps = layer_objective.init(
    objective.layer_terms, jax.random.key(0)
  )
  if share_path:
    paths = dict.fromkeys(paths, next(iter(paths.values())))
  batch = make_batch()
  settings = objective.settings(batch, 0)

  @jax.jit
  def whole(paths, student_taps, teacher_taps, maps):
    total, sums, _, bad = layer_objective.total(
      objective.layer_terms,
      paths,
      student_taps,
      teacher_taps,
      batch,
      settings,
      maps,
      jax.random.key(1),
    )
    return total, sums, bad

  maps = first_maps if layer_maps is None else layer_maps
  total, sums, bad = whole(paths, student_taps, teacher_taps, maps)
  assert bad == 0
  return total, sums, paths, student, teacher, batch


def test_each_term_uses_its_own_layers_of_the_shared_taps():
  objective = build(
    first=base.term('hidden_states', pairs=2, weight=2.0),
    second=base.term('hidden_states', map='last', pairs=3, kind='cosine'),
  )
  total, sums, paths, student, teacher, batch = run(objective)
  pairs = {'first': ([1, 3], [2, 5]), 'second': ([1, 2, 3], [3, 4, 5])}
  for key, kind in (('first', 'mse'), ('second', 'cosine')):
    mine, theirs = pairs[key]
    losses = layers_loss(
      kind, paths[key], student.hidden[mine], teacher.hidden[theirs], 0.0, None
    )
    np.testing.assert_allclose(
      sums[key], jnp.sum(losses * batch.weights), rtol=1e-6
    )
  weight = jnp.sum(batch.weights)
  np.testing.assert_allclose(
    total, (2 * sums['first'] + sums['second']) / weight, rtol=1e-6
  )


def test_attention_terms_use_the_smaller_window_and_both_scales():
  objective = build(maps=base.term('attention_maps', pairs=2, map='last'))
  _, sums, _, student, teacher, batch = run(objective)
  expected = 0.0
  for mine, theirs, window in ((2, 4, 2), (3, 5, None)):
    losses = attention_maps.map_loss(
      attention_maps.Heads(student.query[mine], student.key[mine], 0.5),
      attention_maps.Heads(teacher.query[theirs], teacher.key[theirs], 0.3),
      attention_mask.Positions(batch.positions, batch.segment_ids),
      window=window,
      temperature=1.0,
      heads='mean',
      block=L,
    )
    expected += jnp.sum(losses * batch.weights) / 2
  np.testing.assert_allclose(sums['maps'], expected, rtol=1e-5)


def _mean_map(query, key, scale, batch, window):
  """Returns a layer's mean attention over heads, float64 [B, L, L]."""
  query, key = np.float64(query), np.float64(key)
  key = np.repeat(key, query.shape[2] // key.shape[2], axis=2)
  apart = batch.positions[:, :, None] - batch.positions[:, None]
  seen = batch.segment_ids[:, :, None] == batch.segment_ids[:, None]
  seen &= (apart >= 0) & (apart < (window or L))
  probs = np.exp(np.einsum('bqnh,bknh->bnqk', query, key) * scale)
  probs *= seen[:, None]
  return (probs / probs.sum(-1, keepdims=True)).mean(1)


def test_adaptive_maps_by_attention_compare_attention_maps():
  spec = base.term(
    'hidden_states',
    map='adaptive',
    pairs=3,
    remap_every=5,
    similarity='attention',
  )
  (term,) = build(a=spec).layer_terms
  loss, batch = term.loss, make_batch()
  _, student = shown(STUDENT, types.TapSpec((), loss.student_attention), 0)
  _, teacher = shown(TEACHER, types.TapSpec((), loss.teacher_attention), 1)
  found = jax.jit(loss.similarity)(student, teacher, batch)
  assert found.shape == (3, TEACHER.layers)
  weights = np.float64(batch.weights)
  for i, mine in enumerate(loss.student_attention):
    for j in range(TEACHER.layers):
      both = STUDENT.windows[mine], TEACHER.windows[j]
      window = min((w for w in both if w is not None), default=None)
      p = _mean_map(student.query[i], student.key[i], 0.5, batch, window)
      q = _mean_map(teacher.query[j], teacher.key[j], 0.3, batch, window)
      norms = np.linalg.norm(p, axis=-1) * np.linalg.norm(q, axis=-1)
      cosines = (p * q).sum(-1) / norms
      expected = np.sum(cosines * weights) / weights.sum()
      np.testing.assert_allclose(found[i, j], expected, rtol=1e-5)
  assert np.ptp(found) > 0.01


def test_adaptive_maps_are_read_from_the_state():
  spec = base.term('hidden_states', map='adaptive', pairs=2, remap_every=5)
  objective = build(a=spec)
  _, first, paths, student, teacher, batch = run(objective)
  chosen = {'a': jnp.array([0, 4])}
  _, sums, *_ = run(objective, chosen)
  assert sums['a'] != first['a']
  losses = layers_loss(
    'mse', paths['a'], student.hidden[[1, 3]], teacher.hidden[[0, 4]], 0.0, None
  )
  np.testing.assert_allclose(
    sums['a'], jnp.sum(losses * batch.weights), rtol=1e-6
  )


def test_no_gradient_reaches_the_teacher():
  objective = build(
    h=base.term('hidden_states'), r=base.term('attention_relations')
  )
  _, student = shown(STUDENT, objective.student_taps, 0)
  _, teacher = shown(TEACHER, objective.teacher_taps, 1)
  paths, _ = layer_objective.init(objective.layer_terms, jax.random.key(0))
  batch = make_batch()
  settings = objective.settings(batch, 0)

  def total(student, teacher):
    return layer_objective.total(
      objective.layer_terms,
      paths,
      student,
      teacher,
      batch,
      settings,
      {},
      jax.random.key(0),
    )[0]

  gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
  mine, theirs = gradient(student, teacher)
  assert not any(np.any(x) for x in jax.tree.leaves(theirs))
  assert all(np.any(x) for x in jax.tree.leaves(mine))


def test_each_term_has_its_own_dropout():
  spec = base.term('hidden_states', dropout=0.5)
  _, sums, *_ = run(build(a=spec, b=spec), share_path=True)
  assert sums['a'] != sums['b']
  spec = base.term('hidden_states', dropout=0.0)
  _, sums, *_ = run(build(a=spec, b=spec), share_path=True)
  assert sums['a'] == sums['b']


def test_tokens_with_nonfinite_teacher_layers_are_counted():
  objective = build(
    h=base.term('hidden_states'), r=base.term('attention_relations')
  )
  _, student = shown(STUDENT, objective.student_taps, 0)
  _, teacher = shown(TEACHER, objective.teacher_taps, 1)
  paths, _ = layer_objective.init(objective.layer_terms, jax.random.key(0))
  batch = make_batch()
  batch = batch.replace(weights=batch.weights.at[0, 1].set(0.0))
  settings = objective.settings(batch, 0)

  @jax.jit
  def count(teacher):
    total, _, _, bad = layer_objective.total(
      objective.layer_terms,
      paths,
      student,
      teacher,
      batch,
      settings,
      {},
      jax.random.key(0),
    )
    return jnp.isfinite(total), bad

  spoil = lambda x, token: jnp.asarray(x).at[(0, *token, 0)].set(jnp.nan)
  target = tuple(np.argwhere(np.asarray(batch.weights))[0])
  cases = (
    (teacher, True, 0),
    (teacher.replace(hidden=spoil(teacher.hidden, target)), False, 1),
    # Not at a target.
    (teacher.replace(hidden=spoil(teacher.hidden, (0, 1))), True, 0),
    (teacher.replace(key=spoil(teacher.key, target)), False, 1),
  )
  for shown_by_teacher, is_finite, number in cases:
    assert count(shown_by_teacher) == (is_finite, number)
