"""Tests --mode=plan with the TPU compiler."""

import functools
import json
import os
import subprocess
import sys

import pytest

from kd.config import overrides
from kd.configs import gemma3_tpu
from kd.core import errors
from kd.planning import compile_client
from kd.planning import libtpu
from kd.planning.cost import chips
from kd.planning.hlo import buffers

_COMMAND = (
  *('-m', 'kd', '--mode=plan', '--config=configs/gemma3_tpu.py'),
  *('--config.teacher.variant=tiny', '--config.student.variant=nano'),
  '--config.data.batch_size=8',
  '--config.data.length=256',
  '--config.evaluation.batch_size=8',
  '--config.evaluation.max_new_tokens=16',
  '--config.plan.prompt_length=32',
  '--config.plan.topology=v5e:2x4',
  '--config.plan.price=1.2',
)


def _run(folder, python=()):
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': os.getcwd()}
  env.pop('XLA_FLAGS', None)
  return subprocess.run(
    [
      *(sys.executable, *python, *_COMMAND),
      f'--workdir={folder}/plan',
      f'--config.plan.folder={folder}/answers',
    ],
    env=env,
    text=True,
    capture_output=True,
  )


@pytest.fixture(scope='module', name='planned')
def _planned(tmp_path_factory):
  try:
    libtpu.packages()
  except errors.ConfigError as e:
    pytest.skip(str(e))
  folder = tmp_path_factory.mktemp('plan')
  done = _run(folder, python=('-X', 'importtime'))
  assert done.returncode == 0, done.stderr[-3000:]
  with open(folder / 'plan' / 'plan.json', encoding='utf-8') as f:
    (row,) = json.load(f)['plans']
  return folder, done, row


def test_bytes_equal_the_compilers(planned):
  row = planned[2]
  assert row['programs'].keys() == {'teacher', 'step', 'decode'}
  stated = {
    name: program['stated_bytes']
    for name, program in row['programs'].items()
    if program['stated_bytes']
  }
  assert 'step' in stated
  for name, size in stated.items():
    own = row['programs'][name]['own_bytes']
    assert abs(own - size) < 0.02 * size, name
  assert set(row['bytes']) == set(buffers.KINDS)
  assert row['peak_bytes'] == sum(row['bytes'].values())
  assert row['fits'] and row['expected']['dollars'] > 0
  assert 0 < row['expected']['mfu'] <= row['limit']['mfu'] < 1
  assert row['programs']['step']['bytes']['gradients'] > 0


def test_operations_by_formula_equal_the_compiled_programs(planned):
  row = planned[2]
  for name in ('teacher', 'step'):
    compiled, analytic = (
      part['programs'][name]['flops'] for part in (row, row['paper'])
    )
    assert abs(compiled - analytic) < 0.05 * analytic, name


def test_planning_imports_no_tensorflow_and_writes_its_results(planned):
  folder, done, _ = planned
  imported = {
    line.rpartition('|')[2].strip() for line in done.stderr.splitlines()
  }
  assert 'jax' in imported and not imported & {'tensorflow', 'seqio'}
  for name in ('plan.json', 'plan.md', 'plan.png'):
    assert os.path.getsize(folder / 'plan' / name)
    assert name in done.stdout
  assert 'tiny to nano on v5e:2x4' in done.stdout


@pytest.fixture(name='client')
def _client(planned, monkeypatch):
  """Compiles programs as the command does, into the same folder."""
  config = overrides.apply(
    gemma3_tpu.get_config(),
    [
      overrides.Override(*word.removeprefix('--config.').split('=', 1), word)
      for word in (*_COMMAND, f'--config.plan.folder={planned[0]}/answers')
      if word.startswith('--config.')
    ],
  )
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  chosen = chips.parse(config.plan.topology)
  return functools.partial(compile_client.run, config, chosen, [256])


def _smallest(folder):
  """Returns the stored result of the program that compiles fastest."""
  size = lambda stored: (stored / compile_client.PROGRAM).stat().st_size
  return min((folder / 'answers').iterdir(), key=size)


def test_only_damaged_results_are_compiled_again(planned, client):
  stored = _smallest(planned[0])
  facts = (stored / compile_client.FACTS).read_text()
  damaged = stored / compile_client.LIVE
  damaged.write_bytes(damaged.read_bytes()[:100])
  said = []
  compiled = [one.folder for one in client(None, said.append) if one.seconds]
  assert compiled == [str(stored)]
  assert f'{stored} is damaged: compiled again' in said
  assert sum('compiled on' in line for line in said) == 2
  assert compile_client.is_intact(str(stored))
  undated = lambda text: json.loads(text) | {'date': '', 'sha256': {}}
  again = (stored / compile_client.FACTS).read_text()
  assert undated(again) == undated(facts)


def test_with_other_compiler_flags_a_program_is_compiled_again(
  planned, client, monkeypatch
):
  known = set(os.listdir(planned[0] / 'answers'))
  flag = '--xla_tpu_enable_latency_hiding_scheduler=false'
  monkeypatch.setenv('LIBTPU_INIT_ARGS', flag)
  other = next(client(['teacher'], print))
  assert other.seconds > 0 and os.path.basename(other.folder) not in known
