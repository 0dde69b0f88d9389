"""Compares scoring and compression on meshes with float64 numpy."""

import dataclasses

import jax
import numpy as np

from kd.core import types
from kd.models import families
from kd.models import model_cases
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import placement
from kd.partitioning import rules
from kd.teachers import live
from kd.teachers.cache import compression
from kd.teachers.cache import scoring

_B, _L, _V = 8, 16, 260
_WIDE = 264  # The teachers' columns: the student lacks the last four.
_TOP = compression.Method('top_k', 'float16', 5, 1.0, 0)
_DRAWN = compression.Method('sampled', 'float16', 40, 1.0, 40)
_HIDDEN = compression.Method('hidden', 'bfloat16', 0, 1.0, 0)


def _batch():
  rng = np.random.default_rng(0)
  ids = rng.integers(4, 250, (2, _B, _L)).astype(np.int32)
  ones = np.ones((_B, _L), np.int32)
  return types.Batch(
    tokens=ids[0],
    targets=ids[1],
    positions=np.cumsum(ones, 1, dtype=np.int32) - 1,
    segment_ids=ones,
    parts=0 * ones,
    weights=(rng.random((_B, _L)) < 0.6).astype(np.float32),
    row_id=np.arange(100, 100 + _B, dtype=np.int32),
  )


def _teachers(mesh, shares):
  """Returns teachers of one size with different seeds."""
  sizes = families.variant('nano', '')
  kinds = sizes.layer_kinds[:2]
  sizes = dataclasses.replace(sizes, layer_kinds=kinds, vocab_size=_WIDE)
  model = families.build(sizes, 'float32', 'none', 'teacher')
  shardings = rules.param_shardings(
    mesh,
    model.logical_axes(),
    model.abstract_params(),
    'teacher',
  )
  found = []
  for seed, share in enumerate(shares):
    params = model_cases.random_params(model.abstract_params(), seed)
    found.append(live.Teacher(model, jax.device_put(params, shardings), share))
  return found


def _scored(sizes, shares, method):
  count = int(np.prod(list(sizes.values())))
  mesh = mesh_lib.make(sizes, jax.devices()[:count])
  score = scoring.make(_teachers(mesh, shares), method, _V, 24, 7)
  found = score(placement.place(_batch(), mesh, _B))
  return jax.tree.map(np.asarray, placement.fetch(found, mesh, _B))


def _direct(shares):
  """Returns probabilities of the student's ids and the mass of other ids."""
  mesh = mesh_lib.make({'data': 1}, jax.devices()[:1])
  p, dropped, normalizer = 0, 0, None
  for teacher in _teachers(mesh, shares):
    forward = jax.jit(teacher.model.forward, static_argnums=2)
    with rules.active(mesh):
      hidden, _ = forward(teacher.params, _batch(), types.TapSpec((), ()))
    table = np.asarray(teacher.params['embedding'], np.float64)
    e = np.exp(np.asarray(hidden, np.float64) @ table.T)
    normalizer = np.log(e[..., :_V].sum(-1))
    p = p + teacher.weight * e[..., :_V] / e[..., :_V].sum(-1, keepdims=True)
    dropped = dropped + teacher.weight * e[..., _V:].sum(-1) / e.sum(-1)
  return p, dropped, normalizer, np.asarray(hidden)


def _check(found, shares):
  batch = _batch()
  counted = batch.weights != 0
  p, dropped, normalizer, hidden = _direct(shares)
  at_target = np.take_along_axis(p, batch.targets[..., None], -1)[..., 0]
  near = lambda got, like: np.testing.assert_allclose(
    got[counted], like[counted], 1e-4, 1e-5
  )
  near(found.target_logprob, np.log(at_target))
  near(found.log_normalizer, normalizer if len(shares) == 1 else 0 * dropped)
  assert dropped[counted].max() > 1e-3
  near(found.dropped_mass, dropped)
  compressed = found.compressed
  if compressed.hidden is not None:
    near(compressed.hidden, hidden)
    near(found.entropy, -(p * np.log(p)).sum(-1))
    return
  assert compressed.ids.max() < _V
  used = counted[..., None] & (compressed.ids >= 0)
  each = np.take_along_axis(p, np.maximum(compressed.ids, 0), -1)
  np.testing.assert_allclose(
    compressed.logprobs[used], np.log(each)[used], 1e-4, 1e-5
  )
  if compressed.counts is None:
    most = np.sort(np.argsort(-p, axis=-1)[..., :5], -1)
    np.testing.assert_array_equal(compressed.ids[counted], most[counted])
    near(compressed.tail_logprob, np.log(1 - each.sum(-1)))
  else:
    assert (compressed.counts[counted].sum(-1) == 40).all()


def test_targets_do_not_depend_on_the_mesh():
  for method in (_TOP, _DRAWN):
    found = _scored({'data': 2, 'fsdp': 2, 'tensor': 2}, (1.0,), method)
    _check(found, (1.0,))
  alone = _scored({'data': 1}, (1.0,), _DRAWN)
  np.testing.assert_array_equal(found.compressed.ids, alone.compressed.ids)
  np.testing.assert_array_equal(
    found.compressed.counts, alone.compressed.counts
  )


def test_hidden_states_and_a_mixture():
  sizes = {'fsdp': 2, 'sequence': 2}
  _check(_scored(sizes, (1.0,), _HIDDEN), (1.0,))
  _check(_scored(sizes, (0.7, 0.3), _TOP), (0.7, 0.3))
