"""Analytic plans of --mode=plan."""

import json

import pytest

from kd.configs import gemma3_tpu
from kd.core import errors
from kd.modes import plan as plan_mode
from kd.planning import records


def _plan(tmp_path, **changes):
  config = gemma3_tpu.get_config()
  config.update_from_flattened_dict(
    {
      'teacher.variant': 'tiny',
      'student.variant': 'nano',
      'data.length': 256,
      'data.batch_size': 8,
      'evaluation.batch_size': 8,
      'plan.topology': 'v5litepod-8',
      'plan.compile': False,
    }
    | changes
  )
  plan_mode.main(config, str(tmp_path))


def test_a_plan_without_the_compiler(tmp_path, capsys):
  _plan(tmp_path, **{'plan.lengths': (256, 256, 512), 'plan.price': 1.2})
  out = capsys.readouterr().out
  assert 'v5litepod-8 is v5e:2x4: 8 chips' in out
  assert 'expected: MFU' in out and 'at most (roofline): MFU' in out
  with open(tmp_path / records.RESULTS, encoding='utf-8') as f:
    rows = json.load(f)['plans']
  assert [row['length'] for row in rows] == [256, 512]
  assert all(
    row['expected']['dollars'] >= row['limit']['dollars'] > 0 for row in rows
  )


def test_another_family_with_an_untied_head_is_planned(tmp_path, capsys):
  models = {'teacher.variant': 'qwen3_32b', 'student.variant': 'qwen3_8b'}
  sizes = {'data.batch_size': 64, 'evaluation.batch_size': 64}
  _plan(tmp_path, **models, **sizes, **{'plan.topology': 'v5e:8x8'})
  assert 'v5e:8x8: 64 chips' in capsys.readouterr().out
  with open(tmp_path / records.RESULTS, encoding='utf-8') as f:
    (row,) = json.load(f)['plans']
  assert row['expected']['seconds'] > 0


@pytest.mark.parametrize(
  'changes,message',
  [
    (
      {'plan.prompt_length': 1000, 'evaluation.max_new_tokens': 128},
      'plan.prompt_length: .*1 to 896',
    ),
    ({'plan.topology': 'v5litepod-7'}, "plan.topology: .*'v5litepod-8'"),
    ({'plan.lengths': (256, 2048)}, 'plan.lengths: found 2048.*up to 1024'),
    ({'data.length': 2048}, 'data.length: found 2048.*up to 1024'),
    ({'teacher.devices': 8}, 'teacher.devices: found 8.*0 to 6'),
    ({'mesh.tensor': 10**6}, 'mesh: .*1000000.* whose product is 8'),
    ({'plan.mfu': 0.0}, 'plan.mfu: found 0.0.*above 0'),
    ({'plan.mfu': 2.0}, 'plan.mfu: found 2.0.*at most 1'),
    (
      {'plan.compile': True, 'plan.folder': '/dev/null/plans'},
      'plan.folder: .*/dev/null.* is not a folder',
    ),
  ],
)
def test_a_wrong_plan_is_refused_by_its_field(tmp_path, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    _plan(tmp_path, **changes)
  assert not list(tmp_path.iterdir())
