"""Compares weights of modalities with one backward pass per modality."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd.config import base
from kd.core import types
from kd.losses import modalities
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.models import families
from kd.models.vision import vision_cases
from kd.optimizers import optimizer_cases
from kd.optimizers import optimizers
from kd.optimizers import parameter_groups
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.run import model_sizes
from kd.teachers import live
from kd.train import checkpointing
from kd.train import update

# No other array has 52 rows or columns.
_TOWER = dataclasses.replace(
  vision_cases.TOWER, image_size=8, mlp_dim=52, tokens_per_side=1
)
_SIZES = dataclasses.replace(
  optimizer_cases.SIZES, layer_kinds=('global',), vision=_TOWER
)
_MODEL = families.build(_SIZES, 'float32', 'none', '')
_DECLARED = {'image': 3.0, 'text': 0.5}
_DECAY = 0.75


def _batch(rows=4, length=9, seed=0):
  """Returns rows of two examples, some of them with a one-token image."""
  rng = np.random.default_rng(seed)
  shape = rows, length
  tokens = rng.integers(4, _SIZES.vocab_size, (2, *shape)).astype(np.int32)
  segments = np.repeat(np.int32([1, 2, 0]), [4, 4, 1])[None] * np.ones(shape)
  segments = segments.astype(np.int32)
  index = np.full(shape, -1, np.int32)
  index[0, 1] = index[1, 4] = index[2, 0] = 0
  pixels = rng.integers(0, 256, (rows, 1, 8, 8, 3)).astype(np.uint8)
  weights = rng.uniform(0.5, 2.0, shape) * (segments > 0) * (index < 0)
  return types.Batch(
    tokens=tokens[0],
    targets=tokens[1],
    positions=np.int32([*range(4), *range(4), 0]) * np.ones(shape, np.int32),
    segment_ids=segments,
    parts=np.zeros(shape, np.int32),
    weights=weights.astype(np.float32),
    row_id=np.arange(rows, dtype=np.int32),
    images=types.Images(pixels, index),
  )


def _has_image(batch):
  """Returns a mask of the positions of examples with images, by loops."""
  where = np.zeros(batch.tokens.shape, bool)
  for row, index in enumerate(batch.images.index):
    for place in np.flatnonzero(index >= 0):
      same = batch.segment_ids[row] == batch.segment_ids[row, place]
      where[row] |= same
  return where


@functools.cache
def _built():
  """Returns the objective, the first state and the update of micro-batches."""
  context = terms_lib.Context(steps=9, student=None, teacher=None)
  spec = {**_DECLARED, 'balance': 'gradient_norm', 'decay': _DECAY}
  objective = objective_lib.Objective(
    term_builder.build({'ce': base.term('cross_entropy').to_dict()}, context),
    selection.everywhere(),
    16,
    modalities.build(spec, 'objective.modalities', 9),
  )
  lr = base.schedule('constant', peak=0.05, warmup_steps=0)
  optimizer, rate = optimizers.build(base.sgd(lr).to_dict(), 9)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: (rng.normal(size=x.shape) / 4).astype(np.float32),
    _MODEL.abstract_params(),
  )
  step = update.make(_MODEL, objective, optimizer, rate, micro_batches=2)
  state = update.init_state(params, objective, optimizer, 0)
  return objective, state, jax.jit(step)


def _parts(objective, params, batch):
  """Returns the gradient of each modality's part, with one pass each."""
  settings = objective.settings(batch, 0)
  where = _has_image(batch)

  @jax.jit
  @jax.grad
  def gradient(params, weights):
    rows = batch.replace(weights=weights)
    hidden, taps = _MODEL.forward(params, rows, objective.student_taps)
    student = objective_lib.Student(
      hidden, _MODEL.unembedding(params), taps, {}, {}
    )
    return objective(student, None, rows, settings, jax.random.key(0))[0]

  return [gradient(params, batch.weights * w) for w in (where, ~where)]


def test_norms_and_gradients_equal_those_of_a_pass_for_each_modality():
  batch, where = _batch(), _has_image(_batch())
  weights = np.where(where, _DECLARED['image'], _DECLARED['text'])
  # The total weight, by which the objective is normalized.
  total = np.sum(weights * batch.weights)
  objective, state, step = _built()
  parts = dict(
    zip(modalities.NAMES, _parts(objective, state.params, batch), strict=True)
  )
  whole = jax.tree.map(
    lambda *x: (
      np.sum([w * y for w, y in zip(_DECLARED.values(), x)], 0)
      * np.sum(batch.weights)
      / total
    ),
    *parts.values(),
  )
  _, out = step(state, batch, None)
  for name, part in parts.items():
    # Of the logarithm of the factor on each channel.
    scale = state.params['final_norm']['scale']
    norm = np.linalg.norm(part['final_norm']['scale'] * (1 + scale))
    got = out.scalars[f'modality/{name}/gradient_norm']
    np.testing.assert_allclose(got, norm, rtol=1e-4)
  modules = dict(whole['vision'])
  modules['text'] = {k: v for k, v in whole.items() if k != 'vision'}
  for name, tree in modules.items():
    got = out.scalars[f'grad_norm/{name}']
    np.testing.assert_allclose(got, optax.tree.norm(tree), rtol=1e-4)
  got = out.scalars['grad_norm']
  np.testing.assert_allclose(got, optax.tree.norm(whole), rtol=1e-4)
  image = np.sum(weights * batch.weights * where)
  got = out.scalars['modality/image/fraction']
  np.testing.assert_allclose(got, image / total, rtol=1e-6)
  totals = out.modality_totals['ce']
  np.testing.assert_allclose(totals, [image, total - image], rtol=1e-6)
  sums = np.sum(out.modality_sums['ce'])
  np.testing.assert_allclose(sums, out.sums['ce'], rtol=1e-6)


def test_weights_follow_an_average_of_norms_that_a_checkpoint_keeps(tmp_path):
  _, state, step = _built()
  # The third batch has no image, so its norms cannot be compared.
  batches = [_batch(seed=i) for i in range(4)]
  batches[2].images.index[:] = -1
  declared, average = np.array([*_DECLARED.values()]), None
  for number, batch in enumerate(batches):
    kept = state
    state, out = step(state, batch, None)
    value = lambda metric, out=out: np.array(
      [out.scalars[f'modality/{name}/{metric}'] for name in modalities.NAMES]
    )
    expected = declared
    if average is not None:
      expected = declared / average
      expected = expected * np.sum(declared) / np.sum(expected)
    np.testing.assert_allclose(value('weight'), expected, rtol=1e-5)
    new = value('gradient_norm')
    if number != 2:
      average = (
        new if average is None else (_DECAY * average + (1 - _DECAY) * new)
      )
  assert abs(expected / declared - 1).min() > 0.01

  saver = checkpointing.Saver(str(tmp_path), 1, print)
  info = checkpointing.ResumeInfo('', {}, True, {})
  saver.save(3, kept, {}, info, None)
  saver.wait(3)
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    jax.tree.map(jnp.asarray, kept),
  )
  restored, _, _ = saver.restore(3, like, {}, '')
  saver.close()
  again, _ = step(restored, batches[3], None)
  jax.tree.map(np.testing.assert_array_equal, again, state)


def _count_products(update_, *arguments):
  """Returns the number of products of an update that have 52 channels."""
  lines = str(jax.make_jaxpr(update_)(*arguments)).splitlines()
  shown = re.compile(r'f32\[[^]]*\b52\b[^]]*\] = dot_general')
  return sum(bool(shown.search(line)) for line in lines)


def _products(groups):
  """Returns the number of such products of an update, and its state."""
  objective, state, _ = _built()
  entries = {name: entry.to_dict() for name, entry in groups.items()}
  split = parameter_groups.ParameterGroups(
    _SIZES, parameter_groups.build(entries, 'optimizer.groups', 9)
  )
  lr = base.schedule('constant', peak=0.05, warmup_steps=0)
  optimizer, rate = optimizers.build(base.adamw(lr).to_dict(), 9, split)
  split.check((state.params, {}))
  update_ = update.make(_MODEL, objective, optimizer, rate, 1)
  state = jax.eval_shape(
    lambda p: update.init_state(p, objective, optimizer, 0), state.params
  )
  return _count_products(update_, state, _batch(), None), state


def test_a_frozen_tower_has_no_backward_pass_and_no_optimizer_state():
  frozen = base.parameter_group('vision.tower', frozen=True)
  trained = base.parameter_group(r'vision.tower.layers.2', rate=0.1)
  (less, state), (more, other) = (
    _products({'tower': group}) for group in (frozen, trained)
  )
  # One product forward; backward, the gradients of its weights, of the next
  # weights, and of its output.
  assert (less, more) == (1, 4)
  sizes = lambda s: [x.shape for x in jax.tree.leaves(s.opt_state)]
  assert not [x for x in sizes(state) if 52 in x]
  assert len([x for x in sizes(other) if 52 in x]) == 6
  # The projector still trains.
  assert (12, _SIZES.embed_dim) in sizes(state)


def test_a_shared_tower_runs_only_in_the_teacher():
  sizes = model_sizes.term_sizes(_SIZES)
  context = terms_lib.Context(steps=9, student=sizes, teacher=sizes)
  terms = term_builder.build({'kl': base.term('forward_kl').to_dict()}, context)
  split = parameter_groups.ParameterGroups(
    _SIZES, is_frozen=lambda path: path.startswith('vision.tower.')
  )
  lr = base.schedule('constant', peak=0.05, warmup_steps=0)
  optimizer, rate = optimizers.build(base.sgd(lr).to_dict(), 9, split)
  params, batch = _built()[1].params, _batch()
  mesh = mesh_lib.make({}, jax.devices()[:1])
  teacher = jax.device_put(params, rules.replicated(mesh))
  teachers = [live.Teacher(_MODEL, teacher, 1.0)]
  objectives = [
    objective_lib.Objective(
      terms, selection.everywhere(), 16, shares_tower=shares
    )
    for shares in (True, False)
  ]
  score = live.make(
    teachers, _SIZES.vocab_size, objectives[0].teacher_taps, mesh
  )
  targets, products = score(batch), []
  for objective in objectives:
    step = update.make(_MODEL, objective, optimizer, rate, micro_batches=2)
    state = update.init_state(params, objective, optimizer, 0)
    products.append(_count_products(step, state, batch, targets))
  assert products == [0, 1]
  rows = [one.shared_images(batch, targets) for one in objectives]
  assert rows[0].images.pixels is None and rows[1] is batch
  # The student's copy of the tower computes the same.
  forward = live.scorer(_MODEL, types.TapSpec((), ()))
  hidden = [forward(params, x)[0] for x in rows]
  np.testing.assert_allclose(*hidden, rtol=1e-5, atol=1e-6)
  images = batch.images.replace(pixels=255 - batch.images.pixels)
  changed, _ = forward(params, batch.replace(images=images))
  assert np.abs(changed - hidden[0]).max() > 0.01
