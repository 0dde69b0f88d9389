"""Terms of soft tokens and tower layers against float64 numpy."""

import dataclasses

import jax
import numpy as np
import pytest

from kd.config import base
from kd.core import errors
from kd.core import types
from kd.losses import layer_objective
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms

_STUDENT = terms.Sizes(
  *(2, 6, 2, 1, 4, 0.5, (None, None)),
  image_tokens=2,
  tower_layers=2,
  tower_width=3,
)
_TEACHER = dataclasses.replace(_STUDENT, width=8, tower_layers=5, tower_width=4)
_B, _L = 2, 7


def _batch():
  index = np.full((_B, _L), -1, np.int32)
  index[0, 1:3], index[0, 4:6], index[1, 2:4] = [0, 1], [2, 3], [0, 1]
  ones = np.ones((_B, _L), np.int32)
  return types.Batch(
    tokens=ones,
    targets=ones,
    positions=np.arange(_L, dtype=np.int32) * ones,
    segment_ids=ones,
    parts=0 * ones,
    weights=(index < 0).astype(np.float32),
    row_id=ones[:, 0],
    images=types.Images(np.zeros((_B, 2, 4, 4, 3), np.uint8), index),
  )


def _shown(sizes, spec, seed):
  """Returns random outputs of the layers that a TapSpec names."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  tower = normal(sizes.tower_layers, _B, _L, sizes.tower_width)
  soft_tokens = normal(1, _B, _L, sizes.width)
  return types.Taps(
    *(None,) * 4,
    tower=tower[list(spec.tower)] if spec.tower else None,
    soft_tokens=soft_tokens if spec.soft_tokens else None,
  )


def _run(student, teacher, same=False, **losses):
  context = terms.Context(steps=10, student=student, teacher=teacher)
  specs = {key: spec.to_dict() for key, spec in losses.items()}
  built = term_builder.build(specs, context)
  objective = objective_lib.Objective(built, selection.everywhere(), 8)
  own = _shown(student, objective.student_taps, 0)
  other = own if same else _shown(teacher, objective.teacher_taps, 1)
  projections, _ = layer_objective.init(built, jax.random.key(0))
  batch = _batch()
  total, sums, by_modality, bad = layer_objective.total(
    *(built, projections, own, other, batch, objective.settings(batch, 0)),
    *({}, jax.random.key(1)),
  )
  assert bad == 0
  for key, both in by_modality.items():
    np.testing.assert_allclose(both, [sums[key], 0], rtol=1e-6)
  return total, projections, own, other, objective


def _term(states, **changes):
  return base.term('hidden_states', states=states, part='image', **changes)


def _mse(own, other, projection):
  """Returns the mean squared difference at image positions, float64."""
  where = _batch().images.index >= 0
  own, other = (np.asarray(x, np.float64)[where] for x in (own, other))
  normed = lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  kernel = np.asarray(projection, np.float64)
  return np.mean((normed(own) @ kernel - normed(other)) ** 2)


def test_terms_of_images_equal_float64():
  total, projections, own, other, objective = _run(
    *(_STUDENT, _TEACHER),
    soft=_term('soft_tokens', weight=0.5),
    tower=_term('tower', map='last', pairs=2, weight=2.0),
  )
  assert objective.student_taps.tower == (0, 1)
  assert objective.teacher_taps.tower == (3, 4)
  kernels = {key: x['projection']['kernel'] for key, x in projections.items()}
  tower = [
    _mse(*pair)
    for pair in zip(own.tower, other.tower, kernels['tower'], strict=True)
  ]
  soft = _mse(own.soft_tokens[0], other.soft_tokens[0], kernels['soft'][0])
  np.testing.assert_allclose(
    total, 0.5 * soft + 2.0 * np.mean(tower), rtol=1e-5
  )


def test_a_student_equal_to_its_teacher_has_zero_loss():
  total, *_ = _run(
    *(_STUDENT, _STUDENT),
    same=True,
    soft=_term('soft_tokens', kind='cosine'),
    tower=_term('tower', pairs=2),
  )
  # Bits may differ where operations are not compiled together.
  assert abs(total) < 1e-12


@pytest.mark.parametrize(
  'changes,field',
  [
    ({'part': 'all'}, 'part'),
    ({'states': 'soft_tokens', 'pairs': 2}, 'pairs'),
    ({'map': 'adaptive', 'remap_every': 1}, 'map'),
  ],
)
def test_wrong_terms_are_named(changes, field):
  fields = {'states': 'tower', 'part': 'image', **changes}

  term = base.term('hidden_states', **fields)
  with pytest.raises(errors.ConfigError, match=f'losses.image.{field}'):
    _run(_STUDENT, _TEACHER, image=term)


def test_a_student_without_a_tower_is_named():
  blind = dataclasses.replace(_STUDENT, tower_layers=0)
  with pytest.raises(errors.ConfigError, match='the student has no vision'):
    _run(blind, _TEACHER, image=_term('tower'))
