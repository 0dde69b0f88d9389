"""Tests README's commands in order, from a checkout and from runfiles.

`bazel run` starts the program in its runfiles, a tree of links to files in
other folders. A workdir from there is used from the checkout and vice versa.
"""

import json
import os
import pathlib
import re
import shlex
import shutil

import pytest

from tests import command
from tests import warm

_README = pathlib.Path('README.md')
_BAZEL, _PYTHON = './bazelw run //:train -- ', 'python -m kd '
# Other tests cover these.
_OTHERS = ('./bazelw test //:tests', './bazelw run //:plan -- ')
# The steps of other tests' runs, whose compiled programs are cached.
_SMALL = (
  *command.QUICK[1:],
  '--config.evaluation.baseline=False',
  '--config.evaluation.sets.held_out.answers=0',
  '--config.generate.max_new_tokens=4',
)


def _commands():
  """Returns README's command lines, in order."""
  blocks = re.findall(r'^```\n(.*?)^```', _README.read_text(), re.M | re.S)
  text = ''.join(blocks).replace('\\\n', ' ')
  return [line for line in text.split('\n') if line]


def _arguments(prefix):
  """Returns the arguments of each command that starts with `prefix`."""
  lines = [line for line in _commands() if line.startswith(prefix)]
  return [shlex.split(line.removeprefix(prefix)) for line in lines]


def _modes(prefix):
  """Returns the arguments by mode."""
  found = {}
  for arguments in _arguments(prefix):
    (mode,) = [
      x.partition('=')[2] for x in arguments if x.startswith('--mode=')
    ] or ['train']
    assert mode not in found, 'each mode once'
    found[mode] = arguments
  return found


def _link(source, target):
  """Links to the real file, since Bazel's own copies are links, too."""
  os.symlink(os.path.realpath(source), target)


class _Project:
  """A copy of the project, and a process of it to fork."""

  def __init__(self, folder, copy, env, user):
    """Copies the project.

    Args:
      folder: folder for the copy.
      copy: function that copies a file.
      env: environment variables of the processes.
      user: current folder of the user.
    """
    self._log, self._env, self._runs = folder.parent / 'log', env, 0
    for name in ('kd', 'configs', 'data', 'tests'):
      shutil.copytree(name, folder / name, copy_function=copy)
    self._user = user or folder
    self._warm = warm.Warm({**env, 'PYTHONPATH': str(folder)}, str(folder))

  def run(self, arguments, root):
    """Runs kd.main; returns its output.

    Args:
      arguments: arguments as in README.
      root: replacement of /tmp.
    """
    self._runs += 1
    log = f'{self._log}-{self._runs}'
    arguments = [a.replace('=/tmp/', f'={root}/') for a in arguments]
    # Set by `bazel run`, which starts the program in another folder.
    env = {'BUILD_WORKING_DIRECTORY': str(self._user)}
    arguments += _SMALL
    process = self._warm.start(arguments, command.ALTERNATING, env, log)
    code = process.wait(300)
    out, err = (pathlib.Path(f'{log}.{x}').read_text() for x in ('out', 'err'))
    assert code == 0, (arguments, out, err)
    return out

  def close(self):
    self._warm.close()


@pytest.fixture(scope='module')
def projects(tmp_path_factory):
  """(checkout, runfiles)."""
  folder = tmp_path_factory.mktemp('readme')
  env = {**command.environment(), 'HOME': str(folder / 'home')}
  checkout = _Project(folder / 'a' / 'checkout', shutil.copy, env, None)
  runfiles = _Project(
    folder / 'b' / 'train.runfiles' / 'kd',
    _link,
    env,
    folder / 'a' / 'checkout',
  )
  (folder / 'a' / 'checkout' / 'prompts.jsonl').write_text(
    '{"prompt": "Q: 1+2=?\\nA:\\n"}\n'
  )
  yield checkout, runfiles
  checkout.close()
  runfiles.close()


def _value(out, name):
  return re.search(rf'^{name} (\S+)$', out, re.M).group(1)


def _check_evaluation(workdir, out):
  """Asserts that --mode=eval equals the evaluation of the last step."""
  with open(workdir / 'evaluations' / 'step_6.json') as f:
    trained = json.load(f)['metrics']['eval/held_out/nll']
  assert _value(out, 'eval/held_out/nll') == f'{trained:.6g}'


def test_each_command_is_run_here_or_in_another_test():
  ours = (_BAZEL, _PYTHON, *_OTHERS)
  assert [x for x in _commands() if not x.startswith(ours)] == []
  assert list(_modes(_BAZEL)) == ['train']
  assert list(_modes(_PYTHON)) == ['check', 'eval', 'export', 'generate']


def test_trained_by_bazel_and_used_from_the_checkout(projects, tmp_path):
  checkout, runfiles = projects
  runfiles.run(_modes(_BAZEL)['train'], tmp_path)
  workdir = tmp_path / 'kd-quickstart'
  # README's table of files.
  table = _README.read_text().partition('| file |')[2].partition('\n\n')[0]
  files = re.findall(r'^\| `(\S+)` \|', table, re.M)
  assert len(files) > 5
  some = {'exit.json', 'trackers.json', 'profile/'}  # Only in some runs.
  assert some < set(files)
  for name in set(files) - {'baseline/'}:
    assert (workdir / name).exists() == (name not in some), name
  for mode, arguments in _modes(_PYTHON).items():
    out = checkout.run(arguments, tmp_path)
    if mode == 'eval':
      _check_evaluation(workdir, out)
  exported = workdir / 'export' / 'hf'
  for name in ('config.json', 'model.safetensors', 'tokenizer_config.json'):
    assert (exported / name).exists(), name
  with open(workdir / 'completions.jsonl') as f:
    assert [len(json.loads(line)['samples']) for line in f] == [1]
  # The same command resumes and has nothing left to do.
  (same,) = re.findall(r'`python -m kd ([^`]*)`', _README.read_text())
  before = (workdir / 'metrics.jsonl').read_bytes()
  out = checkout.run(shlex.split(same.replace('\n', ' ')), tmp_path)
  assert (workdir / 'metrics.jsonl').read_bytes() == before
  assert 'changed since the last start' not in out and 'reused' in out


def test_trained_from_the_checkout_and_used_by_bazel(projects, tmp_path):
  checkout, runfiles = projects
  checkout.run(_modes(_BAZEL)['train'], tmp_path)
  out = runfiles.run(_modes(_PYTHON)['eval'], tmp_path)
  _check_evaluation(tmp_path / 'kd-quickstart', out)
