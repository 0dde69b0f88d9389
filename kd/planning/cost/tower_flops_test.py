"""Tests a tower's operations by formula against XLA's count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.core import types
from kd.models import families
from kd.models.vision import config as config_lib
from kd.models.vision import vision
from kd.planning import planned_run
from kd.planning.cost import tower_flops

_CONFIG = config_lib.VisionConfig(
  image_size=64,
  patch_size=8,
  embed_dim=96,
  mlp_dim=256,
  num_heads=4,
  num_layers=1,  # The compiler counts a loop's body once.
  norm_epsilon=1e-6,
  tokens_per_side=4,
)
# Of the published 4B: all parameters, and those of its text model.
_WHOLE, _TEXT = 4_300_079_472, 3_880_263_168


def test_the_formula_equals_the_compilers_count():
  module = vision.Vision(_CONFIG, 128, 1.0, jnp.float32, 'none')
  pixels = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), np.uint8)
  index = jax.ShapeDtypeStruct((1, 1), np.int32)
  images = types.Images(pixels, index)
  params = jax.eval_shape(module.init, jax.random.key(0), images)
  compiled = jax.jit(module.apply).lower(params, images).compile()
  counted = compiled.cost_analysis()['flops']
  expected = tower_flops.tower(_CONFIG) + tower_flops.projector(_CONFIG, 128)
  # The compiler also counts norms, activations and biases.
  assert expected < counted < 1.06 * expected


def test_the_published_tower_has_the_published_number_of_parameters():
  assert config_lib.SIGLIP.parameter_count(2560) == _WHOLE - _TEXT


def _step(**changes):
  """Returns the operations of a step of one image, nano to nano."""
  config = base.get_config()
  config.teacher.variant = config.student.variant = 'nano'
  config.teacher.vision = 'own'
  config.data.batch_size, config.data.length = 1, 64
  config.losses = dict(kl=base.term('forward_kl'))
  config.student.update(changes.get('student', {'vision': 'teacher'}))
  config.data.images.features = changes.get('features', 'none')
  config.optimizer.groups = changes.get('groups', {})
  return tower_flops.step(planned_run.on_abstract_mesh(config, 1))


def test_steps_count_the_towers_that_run():
  sizes = families.variant('nano', '', with_vision=True)
  tower = tower_flops.tower(sizes.vision)
  projector = tower_flops.projector(sizes.vision, sizes.embed_dim)
  both = tower + projector
  frozen = {'tower': base.parameter_group('vision.tower', frozen=True)}
  own = {'vision': 'own'}
  few = {**own, 'init': 'teacher', 'keep_tower_layers': (1,)}
  low = tower_flops.tower(dataclasses.replace(sizes.vision, num_layers=1))
  short = low + projector
  for changes, expected in (
    ({'student': own}, (both, both, 2 * both, 2 * tower, 2 * tower)),
    (
      {'student': own, 'groups': frozen},
      (both, both, 2 * projector, 0, 2 * tower),
    ),
    ({'student': few}, (both, short, 2 * short, 2 * low, tower + low)),
    ({}, (both, projector, 2 * projector, 0, tower)),
    ({'features': 'int8'}, (projector, projector, 2 * projector, 0, 0)),
  ):
    assert dataclasses.astuple(_step(**changes)) == expected
