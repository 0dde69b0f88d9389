"""Runs all commands of docs/launch.md in order against a simulated cloud."""

import functools
import operator
import os
import pathlib
import re
import shlex
import signal
import subprocess

from kd.config import command_line
from tests.fakes import cloud as cloud_lib

DOCS = pathlib.Path('docs/launch.md')
# Other programs on the page, which are missing in tests.
OTHERS = ('docker', 'ssh-add')
OURS = ('gcloud', 'kubectl', 'launch/tpu', 'launch/gke')


def commands():
  blocks = re.findall(r'^```\n(.*?)^```', DOCS.read_text(), re.M | re.S)
  text = ''.join(blocks).replace('\\\n', ' ')
  return [line for line in text.split('\n') if line]


def write_settings(c, folder):
  """Copies the two files as on the page, with shorter waits."""
  quick = 'poll_seconds=0.02\nbackoff_seconds=0\nsettle_seconds=0\n'
  for name, more in (('slice', quick), ('cluster', '')):
    text = (c.tree / 'launch' / f'{name}.env').read_text()
    (folder / f'my-{name}.env').write_text(text + more)


def read_log(c, line):
  """Follows a log until the first line of the run."""
  process = subprocess.Popen(
    shlex.split(line),
    cwd=c.tree,
    env=c.environment(),
    text=True,
    stdout=subprocess.PIPE,
    start_new_session=True,
  )
  assert any('kd: training' in text for text in process.stdout)
  os.killpg(process.pid, signal.SIGTERM)
  process.wait()


def test_commands_on_the_page_run_in_order(tmp_path):
  with cloud_lib.maker(tmp_path) as make:
    # There is a second life because the run is preempted once.
    first = ['WAITING_FOR_RESOURCES', 'PROVISIONING', *['ACTIVE'] * 4]
    lives = [[*first, 'SUSPENDED'], ['CREATING', 'ACTIVE']]
    c = make(workers=1, lives=lives, codes=[['hang'], [0]])
    write_settings(c, c.tree)
    for name in OTHERS:
      (c.root / 'bin' / name).write_text('#!/bin/sh\nexit 0\n')
      (c.root / 'bin' / name).chmod(0o755)
    for line in commands():
      program = shlex.split(line)[0]
      if program == './bazelw':
        continue  # Other tests run the plan.
      assert program in (*OURS, *OTHERS)
      if line.startswith('launch/tpu logs'):
        read_log(c, line)
        continue
      done = subprocess.run(
        ['bash', '-c', line],
        cwd=c.tree,
        env=c.environment(),
        timeout=300,
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
      )
      assert done.returncode == 0, (line, done.stderr)
    assert c.verbs().count('create') == 2, 'it was preempted once'
    trained, again, exported = c.starts()
    assert trained == again
    assert exported[1] == '--mode=export'
    assert list((c.root / 'slices').iterdir()) == [], 'all of it is deleted'


def test_dry_runs_execute_nothing(tmp_path):
  with cloud_lib.maker(tmp_path) as make:
    c = make()
    write_settings(c, c.root)
    ours = [shlex.split(x) for x in commands() if x.startswith('launch/')]
    assert len(ours) > 10
    for words in ours:
      dry = [w for w in words if w != '--execute']
      if dry[1] in ('watch', 'collect'):
        dry += ['--', '--config=c.py', '--workdir=/mnt/kd/runs/a']
      code, out, err = c.launch(dry[0], *dry[1:])
      assert (code, err) == (0, '')
      assert out
    assert c.calls() == []


def test_configs_and_fields_of_lines_exist():
  found = 0
  for line in commands():
    if '--config=' not in line:
      continue
    flags = [w for w in shlex.split(line) if w.startswith('--config')]
    config = command_line.load(flags[0].removeprefix('--config='))
    for flag in flags[1:]:
      path, _, text = flag.removeprefix('--config.').partition('=')
      *folders, name = path.split('.')
      where = functools.reduce(operator.getitem, folders, config)
      type(where[name])(text)  # Fails if the value has another type.
      found += 1
  assert found > 10
