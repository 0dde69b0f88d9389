"""Modes that do not train need neither a teacher nor losses."""

import jax
import pytest

from kd.config import base
from kd.core import errors
from kd.run import resolve_student

_WEIGHTS = 'hf:{project}/data/fixtures/quickstart_teacher'


def test_plain_weights_need_no_teacher_and_no_losses(tmp_path):
  config = base.get_config()
  config.student.init = _WEIGHTS
  config.teacher.init = 'hf:/nowhere'
  devices = jax.devices()[:1]
  run = resolve_student.resolve_student(config, devices, str(tmp_path))
  assert run.student.config.num_layers == 6
  assert run.tokenizer.vocab_size == 263
  assert run.teachers == () and run.objective.terms == ()


def test_answering_without_weights_is_refused(tmp_path):
  config = base.get_config()
  config.student.variant = 'nano'
  with pytest.raises(errors.ConfigError, match='--workdir.*no checkpoint'):
    resolve_student.resolve_student(config, jax.devices()[:1], str(tmp_path))
