"""Modes that train nothing need no teacher and no losses."""

import jax
import pytest

from kd.config import base
from kd.core import errors
from kd.train import model_rules
from kd.train import resolve_student

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


def test_without_weights_there_is_nothing_to_answer(tmp_path):
  config = base.get_config()
  config.student.variant = 'nano'
  with pytest.raises(errors.ConfigError, match='--workdir.*no checkpoint'):
    resolve_student.resolve_student(config, jax.devices()[:1], str(tmp_path))


@pytest.mark.parametrize(
  'term, path',
  [
    (base.term('forward_kl', temperature=2.0), 'losses.kl.temperature'),
    (base.term('adaptive_kl'), 'losses.kl.name'),
    (base.term('forward_kl'), ''),
    (base.term('cross_entropy'), ''),
  ],
)
@pytest.mark.parametrize('method', ['sampled', 'stratified', 'top_k'])
def test_sampled_targets_serve_temperature_1_alone(term, path, method):
  config = base.get_config()
  config.losses = dict(kl=term)
  kept = base.cache_method(method).to_dict()
  if method == 'top_k' or not path:
    model_rules.check_sampled_targets(config, kept)
    return
  with pytest.raises(errors.ConfigError) as e:
    model_rules.check_sampled_targets(config, kept)
  assert e.value.path == path
