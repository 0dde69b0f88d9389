"""Tests errors of the command line, and --mode=check's output and imports."""

import os
import shutil
import subprocess
import sys

import pytest

from kd import modes
from tests import command
from tests import warm

CONFIG = '--config=configs/quickstart.py'
PLANNED = '--config=configs/gemma3_tpu.py'

# Arguments and parts of the message; the exit code is 2.
REFUSED = {
  'unknown field': (
    [CONFIG, '--config.optmizer.lr.peak=1'],
    ['optmizer.lr.peak', "'optimizer'"],
  ),
  'unknown nested field': (
    [CONFIG, '--config.optimizer.lr.peek=1'],
    ['optimizer.lr.peek', "'peak'"],
  ),
  'fraction for a whole number': (
    [CONFIG, '--config.steps=1.5'],
    ['config.steps', '1.5'],
  ),
  'neither true nor false': (
    [CONFIG, '--config.data.pack=maybe'],
    ['config.data.pack', 'maybe'],
  ),
  'no such config': (
    ['--config=configs/quikstart.py'],
    ['configs/quikstart.py', "'configs/quickstart.py'"],
  ),
  'no config': ([], ['--config', 'not given']),
  'chat without a model': (
    ['--mode=chat'],
    ['--workdir', 'contains no checkpoint', 'student.init=hf:DIR'],
  ),
  'two configs': ([CONFIG, CONFIG], ['--config', 'given 2 times']),
  'unknown mode': ([CONFIG, '--mode=trian'], ['mode', 'train']),
  'negative decay': (
    [CONFIG, '--config.optimizer.weight_decay=-1'],
    ['optimizer.weight_decay', 'found -1.0', '0 or more'],
  ),
  'unknown field in a flagfile': (
    ['--flagfile={folder}/stepz.flags'],
    ['stepz', "did you mean 'steps'"],
  ),
  'no folder': (
    ['--config', 'configs/quickstart.py', '--workdir=/dev/null'],
    ['--workdir', 'is not a folder'],
  ),
  'no such mixture': (
    [CONFIG, '--config.data.mixture=arithmetic_nosy'],
    ['data.mixture', "'arithmetic_noisy'"],
  ),
  'module without tasks': (
    [CONFIG, '--config.data.module=os'],
    ['data.module', 'registers no task'],
  ),
  'stray argument': ([CONFIG, 'steps=3'], ['steps=3']),
  'unknown flag': ([CONFIG, '--wrokdir=x'], ['wrokdir', 'workdir']),
  'unknown loss': (
    [CONFIG, '--config.losses.kl.name=forwrd_kl'],
    ['losses.kl.name', "'forward_kl'"],
  ),
  'mesh that does not divide': (
    [CONFIG, '--config.mesh.tensor=3'],
    ['mesh', 'product is 1'],
  ),
  'plan without a slice': (
    [PLANNED, '--mode=plan'],
    ['plan.topology', 'not given', 'v5e:4x4'],
  ),
  'plan of an unknown slice': (
    [PLANNED, '--mode=plan', '--config.plan.topology=v5e:4x5'],
    ['plan.topology', "'v5e:4x5'"],
  ),
  'plan without a teacher': (
    [PLANNED, '--mode=plan', '--config.plan.topology=v5e:4x4'],
    ['teacher.variant', 'names no weights', '27b'],
  ),
  'plan of a batch that does not divide': (
    [
      *(PLANNED, '--mode=plan', '--config.plan.topology=v5e:4x4'),
      *('--config.teacher.variant=4b', '--config.data.batch_size=24'),
    ],
    ['data.batch_size', '24', 'multiple of 16'],
  ),
}


@pytest.fixture(scope='module')
def refusals(tmp_path_factory):
  """The results of all refused commands, which run two at a time."""
  folder = tmp_path_factory.mktemp('refused')
  flags = tmp_path_factory.mktemp('flags')
  (flags / 'stepz.flags').write_text(f'{CONFIG}\n--config.stepz=7\n')
  results, cases = {}, list(REFUSED.items())
  for first in range(0, len(cases), 2):
    running = {
      name: command.start(
        [
          *('--mode=check', f'--workdir={folder}/run'),
          *(a.replace('{folder}', str(flags)) for a in arguments),
        ]
      )
      for name, (arguments, _) in cases[first : first + 2]
    }
    results.update({n: command.finish(p) for n, p in running.items()})
  assert not list(folder.iterdir()), 'a refused run wrote something'
  return results


@pytest.mark.parametrize('name', REFUSED)
def test_refused_with_exit_code_2(name, refusals):
  code, _, err = refusals[name]
  assert code == 2, err
  for word in REFUSED[name][1]:
    assert word in err, err
  assert 'Traceback' not in err, err


def test_the_default_workdir_has_the_configs_name():
  code, out, err = command.run([CONFIG, '--mode=check'])
  assert code == 0, err
  assert 'workdir: kd-quickstart: ' in out


def test_buckets_are_refused_as_workdirs():
  """Otherwise each machine would create its own folder named gs:."""
  code, _, err = command.run([CONFIG, '--mode=check', '--workdir=gs://bucket'])
  assert code == 2 and "'gs://bucket'" in err


def test_forks_have_the_environment_of_their_start(monkeypatch):
  monkeypatch.setattr(os, 'environ', {'same': '1', 'removed': '2', 'new': '0'})
  now = {'same': '1', 'new': '3'}
  warm.set_variables(command.changed(os.environ, now))
  assert os.environ == now


def test_configs_are_read_before_devices_are_used():
  """A process must join the run's other processes before it uses devices."""
  script = (
    'import sys; from kd.config import base, command_line; '
    'flag = command_line.define(); command_line.parse_flags(sys.argv); '
    'base.checked(flag.value); from jax._src import xla_bridge; '
    'sys.exit(bool(xla_bridge._backends))'
  )
  python = [sys.executable, '-c', script, CONFIG]
  assert subprocess.run(python, env=command.environment()).returncode == 0


def test_check_prints_the_resolved_config_and_writes_nothing(tmp_path):
  teacher = tmp_path / 'teacher'
  teacher.mkdir()
  for name in ('config.json', 'model.safetensors'):
    shutil.copy(f'data/fixtures/quickstart_teacher/{name}', teacher)
  code, out, err = command.run(
    [
      CONFIG,
      '--mode=check',
      f'--workdir={tmp_path}/run',
      '--config.optimizer.lr.peak=1',
      '--config.data.pack=False',
      f'--config.teacher.init=hf:{teacher}',
      '--config.data.tokenizer=bytes',
      *(
        '--config.losses.kl.beta=0.25',
        '--config.losses.kl.name',
        'jensen_shannon',
      ),
    ],
  )
  assert code == 0, err
  for words in (
    'teacher: 1,167,872 parameters',
    'student: 276,928 parameters',
    '16 rows x 128 = 2,048 tokens',
    'optimizer.lr.peak = 1.0 (default 0.0001)',
    'data.pack = False (default True)',
    'contains no tokenizer',
    'data.tokenizer is used',
    '1 x kl (jensen_shannon, temperature 1)',
    'memory per device',
    'kd.data.mixtures registers arithmetic_noisy',
    f'{tmp_path}/run/baseline',
  ):
    assert words in out, out
  assert '"seed"' not in out
  assert os.listdir(tmp_path) == ['teacher']


def test_tildes_expand_to_the_home_folder(tmp_path, monkeypatch):
  """This holds for --config, --workdir and a model's folder."""
  home = tmp_path / 'home'
  shutil.copytree('data/fixtures/quickstart_teacher', home / 'teacher')
  (home / 'config.py').write_text(
    'from kd.configs import quickstart\n'
    'def get_config():\n'
    '  c = quickstart.get_config()\n'
    "  c.teacher.init = 'hf:~/teacher'\n"
    '  return c\n'
  )
  monkeypatch.setenv('HOME', str(home))
  code, out, err = command.run(
    ['--config=~/config.py', '--workdir=~/run', '--mode=check']
  )
  assert code == 0, err
  assert f'workdir: {home}/run: ' in out


def test_help_lists_modes_and_flags():
  _, out, _ = command.run_python(['--help'])
  for flag in ('--config=', '--mode=', '--workdir=', '--config.FIELD='):
    assert flag in out
  for mode in modes.all_modes():
    assert f'\n  {mode} ' in out
