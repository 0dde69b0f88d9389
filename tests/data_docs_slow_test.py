"""Tests files, commands, output and messages of docs/data.md on modules."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import pytest

from kd import modes
from kd.config import base
from kd.config import command_line
from kd.config import overrides
from kd.core import errors
from kd.modes import train as train_mode
from kd.run import resolve
from tests import command

# tests/chats_oracle_test.py runs the part before; the part after shows the
# progress of a large preparation.
_PAGE = (
  pathlib.Path('docs/data.md')
  .read_text()
  .partition('\n## Tasks')[2]
  .partition('\n## Preparing large data')[0]
)
_README = pathlib.Path('README.md').read_text()
_PROGRAM = 'python -m kd '


def _blocks(kind):
  return re.findall(rf'^```{kind}\n(.*?)^```', _PAGE, re.M | re.S)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The user's folder with the page's files."""
  folder, before = tmp_path_factory.mktemp('data'), os.getcwd()
  subprocess.run(['bash', '-ec', _blocks('')[0]], check=True, cwd=folder)
  sys.path.insert(0, str(folder))
  os.chdir(folder)
  with command.compiled_once():
    yield folder
  os.chdir(before)
  sys.path.remove(str(folder))


def _load(folder, line, **changes):
  """Returns mode, config and workdir of a command of the page."""
  assert line.startswith(_PROGRAM), line
  arguments = dict(
    x.removeprefix('--').split('=', 1)
    for x in shlex.split(line.removeprefix(_PROGRAM))
  )
  config = command_line.load(arguments.pop('config'))
  rows = str(folder / 'rows')
  fields = {'data.folder': rows, 'log.tensorboard': 'False', **changes}
  config = overrides.apply(
    config, [overrides.Override(k, v, '') for k, v in fields.items()]
  )
  mode = arguments.pop('mode', 'train')
  workdir = arguments.pop('workdir').replace('/tmp', str(folder / 'out'))
  assert not arguments
  return mode, base.checked(config), pathlib.Path(workdir)


def _run(folder, line):
  """Runs a command of the page in this process; returns its workdir."""
  mode, config, workdir = _load(folder, line)
  modes.load(mode)(config, str(workdir))
  return workdir


def _prepare(folder, **changes):
  """Prepares the rows of the page's run; returns the printed lines."""
  _, config, _ = _load(folder, _blocks('')[1].splitlines()[1], **changes)
  lines = []
  train_mode.prepare(resolve.resolve(config, jax.devices()), lines.append)
  return lines


def _assert_printed(block, out):
  """Asserts that `out` contains the lines of a block in order."""
  places = [out.index(line) for line in block.splitlines()]
  assert places == sorted(places)


def test_commands_print_the_output_on_the_page(folder, capsys):
  checked, trained = _blocks('')[1].splitlines()
  assert not _run(folder, checked).exists()
  assert 'my_data.my_tasks registers answers, sums' in capsys.readouterr().out
  workdir = _run(folder, trained)
  out = capsys.readouterr().out.splitlines()
  for block in _blocks('text')[:2]:
    _assert_printed(block, out)
  # The task's own metric is in all outputs.
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert 'eval/held_out/same_text' in json.loads(lines[-1]), lines[-1]
  assert '| answer as in the data |' in (workdir / 'report.md').read_text()
  assert any('same_text 0.0000' in line for line in out)
  # run.json has the same fractions, computed by hand here for 16 rows.
  recorded = json.loads((workdir / 'run.json').read_text())['mixture']
  sums, answers = recorded['sums'], recorded['answers']
  assert (sums['rate'], answers['rate']) == (0.75, 0.25)
  # A row has 2 examples of answers or 4/3 of sums: 3/1 is (9/4)/(1/2) in rows.
  assert sums['rows'] == pytest.approx(9 / 11)
  assert answers['rows'] == pytest.approx(2 / 11)
  assert sums['examples'] == pytest.approx(0.75)
  assert sums['epochs'] == pytest.approx(16 * 9 / 11 / 3)
  assert answers['epochs'] == pytest.approx(16 * 2 / 11)


def _forget_module():
  """Makes the page's module importable again."""
  import seqio

  seqio.MixtureRegistry.remove('both')
  for name in ('sums', 'answers'):
    seqio.TaskRegistry.remove(name)
  sys.modules.pop('my_data.my_tasks', None)


def _refusal(folder):
  """Returns the error of training on the page's current data."""
  _forget_module()
  with pytest.raises(errors.ConfigError) as e:
    _prepare(folder)
  assert e.value.exit_code == 2
  return str(e.value).replace(str(folder), '/home/me') + '\n'


def test_wrong_data_is_refused_as_documented(folder):
  of_line, of_code, of_feature = _blocks('text')[3:6]
  data, module = (
    folder / 'my_data' / name for name in ('sums.train.jsonl', 'my_tasks.py')
  )
  lines, code = data.read_text(), module.read_text()
  row = '{"id": "g", "inputs": "1+1=? ", "rationale": "1+1=2.", "targets": %s}'
  data.write_text(lines + row % 2)
  assert _refusal(folder) == of_line
  data.write_text(lines + row % '"#### 2"')
  assert _refusal(folder) == of_feature
  data.write_text(lines)
  module.write_text(code.replace('row, where', "row['text'], where"))
  assert _refusal(folder) == of_code
  module.write_text(code)
  _forget_module()


def test_too_long_examples_are_named_as_documented(folder):
  (shown,) = _blocks('text')[6:]
  _assert_printed(shown, _prepare(folder, **{'data.length': '48'}))
  with pytest.raises(errors.ConfigError, match='too short for every.*13 or mo'):
    _prepare(folder, **{'data.length': '8'})


def test_the_smallest_module_of_readme(folder):
  (block,) = re.findall(r'^  ```python\n(.*?)^  ```', _README, re.M | re.S)
  (folder / 'smallest.py').write_text(re.sub('^  ', '', block, flags=re.M))
  for split, text in (
    ('train', '1+1=? \t#### 2\n2+2=? \t#### 4\n'),
    ('validation', '3+3=? \t#### 6\n4+4=? \t#### 8\n'),
  ):
    (folder / f'mine.{split}.tsv').write_text(text)
  lines = _prepare(
    folder,
    **{
      'data.module': 'smallest',
      'data.mixture': 'mine',
      'evaluation.sets.held_out.mixture': 'mine',
    },
  )
  assert 'mine: 1 rows, 46% full, 2 examples' in lines, lines
  assert not any('warning' in line for line in lines)


def test_tasks_without_rationale_are_named(folder):
  part = {'losses.kl.part': 'rationale', 'data.length': '60'}
  lines = _prepare(folder, **part)
  assert [x for x in lines if x.startswith('warning')] == [
    "warning: losses.kl.part: found 'rationale', and task 'answers' has no "
    'rationale'
  ]
  with pytest.raises(errors.ConfigError, match="'answers' has no rationale"):
    _prepare(folder, **part, **{'data.mixture': 'answers'})
  assert not any('warning' in x for x in _prepare(folder))
