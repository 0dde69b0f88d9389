import json
import os
import socket
import time

import pytest

from kd.board import board_cases
from kd.board import database
from kd.board import listing
from kd.board import sql
from kd.core import errors
from kd.run import lock


def _opened(*roots, **kwargs):
  db = database.Database([str(r) for r in roots], **kwargs)
  db.refresh()
  return db


def _names(db, **query):
  return [row['run'] for row in db.select(database.Query(**query)).rows]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Three runs: two learning rates, and another temperature."""
  root = tmp_path_factory.mktemp('runs')
  for i, peak in enumerate((1e-4, 3e-4, 1e-3)):
    fields = board_cases.config(steps=100, optimizer__lr__peak=peak)
    fields['student']['variant'] = ('270m', '1b')[i % 2]
    board_cases.write(root / f'r{i}', fields, scale=1 + i)
  return root


def test_conditions_accept_columns_with_dots_and_slashes(runs):
  db = _opened(runs)
  assert _names(db, sort='run') == ['r0', 'r1', 'r2']
  assert _names(db, where='config.optimizer.lr.peak > 1e-4', sort='run') == [
    *('r1', 'r2')
  ]
  nll = 'eval/held_out/nll'
  # By hand: 0.5 + 4 / 11 = 0.8636 after 100 steps, times the scale, plus 0.1.
  assert _names(db, where=f'{nll} < 1.9', sort=f'-{nll}') == ['r1', 'r0']
  assert _names(db, where=f'{nll}/2 < 0.5 or {nll}-1 > 1', sort='run') == [
    'r0',
    'r2',
  ]
  assert _names(db, where="config.student.variant = '1b' -- and more") == ['r1']
  assert _names(db, where=f'baseline.{nll} > 1.1 * {nll}', sort='run') == [
    *('r0', 'r1', 'r2')
  ]


@pytest.mark.parametrize(
  ('query', 'message'),
  [
    ({'where': 'config.optimizer.lr.peek > 1'}, 'config.optimizer.lr.peak'),
    ({'where': 'eval/held_out/nl < 1'}, 'eval/held_out/nll'),
    ({'where': '(select 1)'}, "column 'select'"),
    ({'where': 'step > 1; drop table runs'}, "found ';'"),
    ({'where': 'step >'}, 'board.where: Parser Error'),
    ({'where': "run > 3 + 'x'"}, 'board.where: '),
    ({'where': "run in read_text('/etc/passwd')"}, 'board.where: '),
    ({'sort': '-stepp'}, 'did you mean .*step'),
    ({'metric': 'eval/held_out/kll'}, 'eval/held_out/kl'),
  ],
)
def test_a_wrong_query_is_refused_with_the_nearest_name(runs, query, message):
  with pytest.raises(errors.ConfigError, match=message):
    _names(_opened(runs), **query)


def test_column_names_are_case_sensitive(tmp_path):
  run = board_cases.write(tmp_path / 'run')
  values = {'eval/A/nll': 1.0, 'eval/a/nll': 2.0, 'row_number': 7.0}
  with open(run / 'metrics.jsonl', 'a') as f:
    f.write(json.dumps({'step': 100, 'phase': 'eval', **values}) + '\n')
  db = _opened(tmp_path)
  assert _names(db, where='eval/a/nll > 1.5 and row_number = 7') == ['run']
  assert not _names(db, where='eval/A/nll > 1.5')
  assert _names(db, sort='eval/a/nll') == ['run']


def test_slow_conditions_are_interrupted(runs, monkeypatch):
  monkeypatch.setattr(sql, '_MOST_S', 0.2)
  endless = 'step in (from range(1000000000000))'
  with pytest.raises(errors.ConfigError, match='board.where: .* longer'):
    _names(_opened(runs), where=endless)


def test_best_is_the_minimum_or_maximum_of_the_metric(runs):
  db = _opened(runs)
  found = db.select(database.Query(metric='eval/held_out/exact_match'))
  assert found.highest
  assert [row['run'] for row in found.rows] == ['r0', 'r1', 'r2']
  found = db.select(database.Query(metric='train/loss'))
  assert not found.highest
  best = found.rows[0]
  assert (best['run'], best['best_step']) == ('r0', 100)
  assert best['best'] == pytest.approx(0.5 + 4 / 11)


def test_differences_are_relative_to_the_first_run(runs):
  db = _opened(runs)
  selection = db.select(database.Query(sort='run'))
  lines = listing.table(selection, db)
  assert lines[0].endswith('config differs from r0')
  assert lines[1].split()[:3] == ['r0', 'finished', '100/100']
  assert lines[2].endswith('lr.peak=0.0003, student.variant=1b')
  assert '  optimizer.lr.peak: 0.0001 -> 0.001' in listing.difference_lines(
    selection, db
  )
  shown = json.loads(listing.as_json(selection, db))
  assert shown['runs'][2]['differences'] == {
    'optimizer.lr.peak': [0.0001, 0.001]
  }


def test_status_is_derived_from_the_files(tmp_path):
  write = board_cases.write
  write(tmp_path / 'finished')
  running = write(tmp_path / 'running', ended=False)
  killed = write(tmp_path / 'killed', ended=False)
  failed = write(tmp_path / 'failed', ended=False)
  preempted = write(tmp_path / 'preempted', ended=False)
  write(tmp_path / 'longer', board_cases.config(steps=200))
  (failed / 'exit.json').write_text('{"code": 3, "error": "loss is NaN"}')
  (preempted / 'exit.json').write_text('{"code": 42, "error": "SIGTERM"}')
  # The number of this process, which has not opened that file.
  holder = {'pid': os.getpid(), 'host': socket.gethostname()}
  (killed / 'lock').write_text(json.dumps(holder))
  (tmp_path / 'foreign' / 'deep').mkdir(parents=True)
  (tmp_path / 'foreign' / 'config.json').write_text('{"architectures": []}')
  with lock.hold(str(running), '--workdir'):
    db = _opened(tmp_path)
    assert {k: s.name for k, s in db.statuses.items()} == {
      'failed': 'failed',
      'finished': 'finished',
      'killed': 'stopped',
      'longer': 'stopped',
      'preempted': 'preempted',
      'running': 'running',
    }
  version = db.version
  db.refresh()
  assert db.statuses['running'].name == 'stopped'
  assert db.version == version + 1
  lines = listing.table(db.select(database.Query()), db)
  assert 'failed: failed: loss is NaN (3)' in lines


def test_damaged_files_are_marked(tmp_path):
  whole = board_cases.write(tmp_path / 'whole')
  torn = board_cases.write(tmp_path / 'torn')
  with open(torn / 'metrics.jsonl', 'a') as f:
    f.write('{"step": 105, "phase"')
  odd = board_cases.write(tmp_path / 'odd')
  (odd / 'config.json').write_bytes(b'\xff{')
  (odd / 'run.json').write_text('[1]')
  lines = (odd / 'metrics.jsonl').read_bytes().splitlines(keepends=True)
  for i, line in enumerate((b'nonsense\n', b'[]\n', b'{"step": "x"}\n')):
    lines[i] = line
  lines[3] = b'{"step": 5, "phase": "train", "train/loss": "NaN", "x": {}}\n'
  (odd / 'metrics.jsonl').write_bytes(b''.join(lines))
  missing = board_cases.write(tmp_path / 'missing')
  (missing / 'config.json').unlink()
  (missing / 'exit.json').mkdir()
  db = _opened(tmp_path)
  assert db.problems[whole.name] == []
  assert db.problems[torn.name] == [
    'metrics.jsonl: the last line is incomplete (21 bytes); skipped'
  ]
  assert db.problems[odd.name] == [
    'config.json is damaged: not JSON',
    'run.json is not a JSON object',
    *(f'metrics.jsonl:{i}: not a line of metrics; skipped' for i in (1, 2, 3)),
  ]
  assert db.problems[missing.name] == [
    'config.json is missing',
    'exit.json Is a directory',
  ]
  lines = listing.table(db.select(database.Query()), db)
  assert len(lines) == 1 + 4 + 2 + 8
  json.loads(listing.as_json(db.select(database.Query()), db))


def test_growing_files_are_read_incrementally(tmp_path):
  run = board_cases.write(tmp_path / 'run', steps=50, ended=False)
  db = _opened(tmp_path)
  files = db.runs['run']
  losses = files.get('train/loss')
  line = board_cases.at(55)[0].encode()
  with open(run / 'metrics.jsonl', 'ab') as f:
    f.write(line[:20])
    f.flush()
    db.refresh()
    assert (files.step, files.incomplete_bytes) == (50, 20)
    f.write(line[20:])
  db.refresh()
  assert (files.step, files.incomplete_bytes, losses.steps[-1]) == (55, 0, 55)
  # A resumed run rewrites the file without the lines to be repeated.
  aside = run / 'aside'
  aside.write_text(''.join(board_cases.at(5)))
  os.replace(aside, run / 'metrics.jsonl')
  db.refresh()
  assert files.step == 5
  assert list(files.get('train/loss').steps) == [5]


def test_two_hundred_runs_are_listed_quickly(tmp_path):
  for i in range(200):
    board_cases.write(tmp_path / f'r{i:03}', scale=1 + i / 100, every=1)
  start = time.process_time()
  db = _opened(tmp_path)
  where = 'eval/held_out/nll > 1.5 and config.steps = 100'
  selection = db.select(database.Query(where=where, sort='best'))
  listing.table(selection, db)
  seconds = time.process_time() - start
  assert (len(selection.rows), selection.total) == (137, 200)
  assert selection.rows[0]['run'] == 'r063'
  # CPU time, whatever else runs; about 1 on an idle machine.
  assert seconds < 3, seconds
