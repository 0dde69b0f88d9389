"""Sizes of a run's student, from a run.json that is whole or damaged."""

import dataclasses
import json
import os

import pytest

from kd.config import base
from kd.core import errors
from kd.models import config_json
from kd.models import families
from kd.run import model_sizes

_CONFIG = families.variant('1b', 'variant')
_DAMAGED = [
  ('embed_dim', 2**31, 'found 2147483648; legal: a whole number from 1 to'),
  ('mlp_dim', True, 'found True'),
  ('num_heads', 1.5, 'found 1.5'),
  ('num_kv_heads', 3, 'found 3; legal: divisors of num_heads = 4'),
  ('query_scale', 0, 'found 0; legal: a number above 0'),
  ('norm_epsilon', '1e-6', "found '1e-6'"),
  ('layer_kinds', [], 'found []; legal: 1 to 1024 of global, local'),
  ('layer_kinds', ['local'] * 1025, "found ['local'"),
  ('layer_kinds', [['local']], "found [['local']]"),
]


def _read(folder, student):
  (folder / 'run.json').write_text(json.dumps({'student': student}))
  return model_sizes.from_workdir(str(folder), '--workdir')


def test_a_runs_student_is_read_back(tmp_path):
  for name in families.variants():
    config = families.variant(name, 'variant')
    assert _read(tmp_path, config_json.to_json(config)) == config
  # Runs did not record the family while there was only one.
  assert _read(tmp_path, dataclasses.asdict(_CONFIG)) == _CONFIG


def test_another_family_is_named(tmp_path):
  qwen3 = config_json.to_json(families.variant('qwen3_8b', 'variant'))
  for student, message in (
    (qwen3 | {'family': 'gemma4'}, "student.family: .*did you mean 'gemma3'"),
    (qwen3 | {'tied': 1}, 'student.tied: found 1; legal: true, false'),
    (qwen3 | {'window': 4}, 'legal: an object with embed_dim, .*, tied'),
  ):
    with pytest.raises(errors.ConfigError, match=message):
      _read(tmp_path, student)


def test_weights_of_another_family_than_the_variant_are_refused(tmp_path):
  _read(tmp_path, config_json.to_json(_CONFIG))
  spec = {
    'init': f'workdir:{tmp_path}',
    'variant': 'qwen3_4b',
    'vision': 'none',
    'vision_init': '',
  }
  with pytest.raises(errors.ConfigError, match='of Qwen3, and .* of Gemma 3'):
    model_sizes.source_config(spec, 'student', None)


def _student(**changes):
  spec = base.get_config().student
  spec.init, spec.keep_layers = 'teacher', changes.pop('keep_layers', ())
  spec.prune.update(changes)
  return model_sizes.student_config(spec, families.variant('270m', ''))


def test_sizes_of_a_pruned_student_need_no_scores():
  local, last = ('local',) * 5, ('global',)
  whole = _student()
  smaller = _student(layers=8, mlp_dim=1024, num_heads=2, embed_dim=320)
  assert smaller == dataclasses.replace(
    whole,
    layer_kinds=(*local, *last, *local[:2]),
    mlp_dim=1024,
    num_heads=2,
    embed_dim=320,
  )
  chosen = _student(keep_layers=(5, 11, 12), mlp_dim=1024)
  assert chosen.layer_kinds == ('global', 'global', 'local')
  # Importance determines which kinds are kept.
  with pytest.raises(errors.ConfigError, match=r'prune\.scores: found '):
    _student(layers=8, layer_pattern='any')


@pytest.mark.parametrize('name, value, message', _DAMAGED)
def test_a_damaged_size_is_named(name, value, message, tmp_path):
  student = dataclasses.asdict(_CONFIG) | {name: value}
  with pytest.raises(errors.ConfigError) as caught:
    _read(tmp_path, student)
  file = os.path.join(tmp_path, 'run.json')
  expected = f'--workdir: {file}: student.{name}: {message}'
  assert str(caught.value).startswith(expected), caught.value
