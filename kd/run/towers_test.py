"""Students whose tower is another's: what is refused before anything loads."""

import jax
import pytest

from kd.config import base
from kd.configs import quickstart
from kd.core import errors
from kd.run import resolve
from kd.run import resolve_student
from kd.run import towers

_SCENES = 'hf:{project}/data/fixtures/scenes_teacher'


def _config(**student):
  config = quickstart.get_config()
  config.teacher.update(init=_SCENES, vision='own')
  config.student.update(vision='teacher', **student)
  return config


def test_adapters_leave_no_projector_random():
  # Its width is the teacher's, whose projector it takes.
  config = _config(variant='tiny')
  config.student.lora.rank = 4
  devices = jax.devices()[:1]
  resolve.resolve(base.checked(config), devices)
  config.student.variant = 'nano'
  with pytest.raises(errors.ConfigError, match='would be random') as e:
    resolve.resolve(base.checked(config), devices)
  assert str(e.value).startswith('student.lora.rank: found 4')


def test_a_tower_of_no_teacher_is_refused(tmp_path):
  config = _config(variant='', init=_SCENES)
  with pytest.raises(errors.ConfigError, match='--workdir.*student.vision is'):
    resolve_student.resolve_student(
      config, jax.devices()[:1], str(tmp_path), with_teachers=True
    )
  # --mode=prune reads the tower from the teacher's files.
  assert towers.place_of_teachers(config) == _SCENES
  for init in ('', 'workdir:/runs/teacher'):
    config.teacher.init = init
    with pytest.raises(errors.ConfigError, match='loads no teacher') as e:
      towers.place_of_teachers(config)
    assert str(e.value).startswith('student.vision')
