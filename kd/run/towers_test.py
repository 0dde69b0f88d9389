"""Students with another model's tower are checked before anything loads."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors

from kd.config import base
from kd.configs import quickstart
from kd.core import errors
from kd.run import load_params
from kd.run import resolve
from kd.run import resolve_student
from kd.run import towers

_SCENES = 'hf:{project}/data/fixtures/scenes_teacher'
_UP = 'vision_model.encoder.layers.1.mlp.fc1.weight'


def _config(**student):
  config = quickstart.get_config()
  config.teacher.update(init=_SCENES, vision='own')
  config.student.update(vision='teacher', **student)
  return config


def test_adapters_with_a_random_projector_are_refused():
  # The student has the teacher's width and takes its projector.
  config = _config(variant='tiny')
  config.student.lora.rank = 4
  devices = jax.devices()[:1]
  resolve.resolve(base.checked(config), devices)
  config.student.variant = 'nano'
  with pytest.raises(errors.ConfigError, match='would be random') as e:
    resolve.resolve(base.checked(config), devices)
  assert str(e.value).startswith('student.lora.rank: found 4')


def _kept(model):
  """Loads a student; returns the matrix of its tower's only layer."""
  params = load_params.load(model, 0, 'student.init', None)
  layers = params['vision']['tower']['layers']
  assert {len(x) for x in jax.tree.leaves(layers)} == {1}
  return np.asarray(layers['up']['kernel'][0], np.float32)


def test_layers_of_a_tower_are_kept():
  config = _config(variant='', init=_SCENES, keep_tower_layers=(1,))
  devices = jax.devices()[:1]
  with pytest.raises(errors.ConfigError, match=r"vision 'teacher'") as e:
    resolve.resolve(base.checked(config), devices)
  assert str(e.value).startswith('student.keep_tower_layers: found (1,)')
  config.student.vision = 'own'
  model = resolve.resolve(base.checked(config), devices).student
  assert model.config.vision.num_layers == 1
  file = 'data/fixtures/scenes_teacher/model.safetensors'
  with safetensors.safe_open(file, 'numpy') as tensors:
    (key,) = (k for k in tensors.keys() if k.endswith(_UP))  # noqa: SIM118
    expected = tensors.get_tensor(key).astype(np.float32).T
  np.testing.assert_array_equal(_kept(model), expected)
  other = dataclasses.replace(model, vision_init=model.init)
  np.testing.assert_array_equal(_kept(other), expected)


def test_towers_without_a_teacher_are_refused(tmp_path):
  config = _config(variant='', init=_SCENES)
  with pytest.raises(errors.ConfigError, match='--workdir.*student.vision is'):
    resolve_student.resolve_student(
      config, jax.devices()[:1], str(tmp_path), with_teachers=True
    )
  # --mode=prune reads the tower from the teacher's files.
  assert towers.teacher_tower_source(config) == _SCENES
  for init in ('', 'workdir:/runs/teacher'):
    config.teacher.init = init
    with pytest.raises(errors.ConfigError, match='loads no teacher') as e:
      towers.teacher_tower_source(config)
    assert str(e.value).startswith('student.vision')
