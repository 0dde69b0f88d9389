"""Tests kd runs and kd board as called in docs/board.md and by scripts."""

import json
import signal
import subprocess
import sys
import urllib.request

from kd.board import board_cases
from kd.config import base
from kd.modes import runs as runs_mode
from tests import command
from tests import page_commands


def test_commands_on_the_page_list_runs(tmp_path, capsys):
  for i, peak in enumerate((1e-4, 3e-4)):
    fields = board_cases.config(steps=100, optimizer__lr__peak=peak)
    board_cases.write(tmp_path / f'r{i}', fields, scale=1 + i)
  shown = []
  for arguments in page_commands.commands('docs/board.md'):
    config, flags = page_commands.parse(arguments)
    assert flags['words'] == '/tmp/sweep'
    if flags['mode'] == 'board':
      continue  # The next test runs the server.
    runs_mode.main(config, None, [str(tmp_path)])
    shown.append(capsys.readouterr().out.splitlines())
  table, chosen, differences = shown
  assert len(table) == 5
  assert [x.split()[0] for x in chosen] == [
    'run',
    'r1',
    '1',
    'eval/held_out/kl:',
  ]
  assert differences[1] == '  optimizer.lr.peak: 0.0003 -> 0.0001'


def test_the_board_serves_until_ctrl_c(tmp_path):
  board_cases.write(tmp_path / 'a')
  process = subprocess.Popen(
    [
      *(sys.executable, '-m', 'kd', 'board', str(tmp_path)),
      *('--config.board.port=0', '--config.board.models=http://127.0.0.1:9/v1'),
    ],
    env=command.environment(),
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert process.stdout.readline() == f'1 run below {tmp_path}\n'
    url = process.stdout.readline().split()[1]
    with urllib.request.urlopen(f'{url}api/runs') as response:
      (run,) = json.load(response)['runs']
    assert (run['run'], run['status']) == ('a', 'finished')
    with urllib.request.urlopen(f'{url}api/models') as response:
      (answered,) = json.load(response)
    assert answered['problem'].startswith('http://127.0.0.1:9/v1: ')
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
  finally:
    process.kill()
    process.wait()


def test_the_command_prints_json_and_refuses_with_code_2(tmp_path):
  board_cases.write(tmp_path / 'a')

  def run(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'kd', 'runs', *arguments],
      env=command.environment(),
      capture_output=True,
      text=True,
    )

  done = run(str(tmp_path), '--config.board.output=json')
  assert done.returncode == 0, done.stderr
  (found,) = json.loads(done.stdout)['runs']
  assert (found['run'], found['status'], found['step']) == (
    'a',
    'finished',
    100,
  )
  assert (
    found['config.optimizer.lr.peak'] == base.get_config().optimizer.lr.peak
  )
  refused = run(str(tmp_path), '--config.board.where=stepp > 1')
  assert refused.returncode == 2
  assert refused.stderr.splitlines() == [
    "kd: error: board.where: unknown column 'stepp'; legal: "
    + ', '.join(sorted(_MAIN))
    + "; did you mean 'step'?"
  ]


_MAIN = (
  *('run', 'folder', 'status', 'why', 'step', 'steps', 'age_s', 'best'),
  *('best_step', 'metric', 'modified', 'problems'),
)
