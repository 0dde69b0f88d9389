"""Tests kd runs on runs in buckets, next to the same runs on disk."""

import datetime
import json
import os
import time

import pytest

from kd.board import board_cases
from kd.board import bucket_root
from kd.board import database
from kd.board import pages
from kd.config import base
from kd.core import errors
from kd.core import objects
from kd.modes import runs as runs_mode
from tests import object_store

_LEASE = {'pid': 7, 'host': 'vm', 'token': 'a', 'renewals': 1}


@pytest.fixture(params=['gs', 's3'], name='root')
def _root(request, monkeypatch):
  with object_store.serve_here(monkeypatch) as store:
    monkeypatch.setattr(bucket_root, '_EVERY_S', 0.0)
    yield store, f'{request.param}://bucket/runs'


def _upload(folder, url):
  for parent, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(parent, name)
      with open(path, 'rb') as f:
        objects.write(f'{url}/{os.path.relpath(path, folder)}', f.read())


def _until(condition):
  """Waits; later refreshes of a bucket are done in a thread."""
  end = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.01)


def _rows(roots):
  config = base.get_config()
  config.board.output, config.board.sort = 'json', 'run'
  runs_mode.main(config, None, roots)


def test_runs_in_buckets_are_listed_like_those_on_disk(root, tmp_path, capsys):
  _, url = root
  board_cases.write(tmp_path / 'sweep/a')
  board_cases.write(tmp_path / 'sweep/b', steps=50, ended=False)
  _upload(tmp_path, url)
  # A run of an early version, in a folder with the name of another one.
  board_cases.write(tmp_path / 'prune/old')
  (tmp_path / 'prune/old/run.json').write_text('{}')
  (tmp_path / 'prune/old/report.md').write_text('')
  _upload(tmp_path, url)
  # These are not read: checkpoints and exports, and what is no file on a disk.
  for name in (
    *('sweep/a/checkpoints/1/run.json', 'sweep/a/export/hf/run.json'),
    *('/lease.json', 'sweep//b/run.json', '../run.json', '.hidden/run.json'),
    *('x.json', 'x.json/y.txt'),
  ):
    objects.write(f'{url}/{name}', b'no')
  shown = []
  for folder in (str(tmp_path), url):
    _rows([folder])
    values = json.loads(capsys.readouterr().out)
    for row in values['runs']:
      assert row['folder'] == f'{folder}/{row["run"]}'
      del row['folder'], row['age_s'], row['modified']
    shown.append(values)
  assert shown[0] == shown[1]
  assert {row['run']: row['status'] for row in shown[1]['runs']} == {
    'prune/old': 'finished',
    'sweep/a': 'finished',
    'sweep/b': 'stopped',
  }


def test_runs_in_buckets_are_followed_by_their_leases(root, tmp_path):
  store, url = root
  board_cases.write(tmp_path, steps=50, ended=False)
  _upload(tmp_path, url)
  db = database.Database([url])
  shown = pages.Pages(db, database.Query(), [])

  def has(*expected):
    def check():
      db.refresh()
      return expected == (db.statuses['runs'].name, db.runs['runs'].step)

    return check

  _until(has('stopped', 50))
  objects.write(f'{url}/lease.json', json.dumps(_LEASE).encode())
  with open(tmp_path / 'metrics.jsonl', 'a') as f:
    f.writelines(board_cases.at(55, 1.0))
  _upload(tmp_path, url)
  _until(has('running', 55))
  run = json.loads(shown.answer('/api/run', {'run': ['runs']}))
  assert run['folder'] == url
  # The last renewal was ten minutes ago.
  store.modified['bucket', 'runs/lease.json'] -= datetime.timedelta(minutes=10)
  _until(has('stopped', 55))
  assert db.statuses['runs'].why == 'process 7 on vm was killed'
  objects.write(f'{url}/run.json', None)
  objects.write(f'{url}/lease.json', None)
  _until(lambda: db.refresh() or db.problems['runs'] == ['run.json is missing'])
  # The files are kept while the store refuses the listing.
  store.forbidden = 'bucket'
  _until(lambda: db.refresh() or len(db.problems['runs']) == 2)
  assert db.problems['runs'][1].startswith(f'{url}: cannot be read: ')
  assert db.runs['runs'].step == 55
  store.forbidden = ''
  _until(lambda: db.refresh() or len(db.problems['runs']) == 1)


def test_a_lease_next_to_a_lock_does_not_count_on_disk(tmp_path):
  board_cases.write(tmp_path / 'a', steps=50, ended=False)
  (tmp_path / 'a/lease.json').write_text(json.dumps(_LEASE))
  db = database.Database([str(tmp_path)])
  db.refresh()
  assert db.statuses['a'].name == 'stopped'


def test_equal_names_in_two_buckets_are_told_apart(root, tmp_path):
  _, url = root
  board_cases.write(tmp_path / 'a')
  other = url.replace('runs', 'more/runs')
  _upload(tmp_path, url)
  _upload(tmp_path, other)
  db = database.Database([url, other])
  db.refresh()
  assert set(db.runs) == {'runs/a', f'{other}/a'}


def test_only_changed_files_are_read(root, tmp_path, monkeypatch):
  _, url = root
  board_cases.write(tmp_path)
  _upload(tmp_path, url)
  db = database.Database([url])
  db.refresh()
  read, read_changed = [], objects.read_changed

  def note(generations):
    read.extend(generations)
    return read_changed(generations)

  monkeypatch.setattr(objects, 'read_changed', note)
  objects.write(f'{url}/config.json', b'{"steps": 7}')
  _until(lambda: db.refresh() or db.runs['runs'].config == {'steps': 7})
  assert read == [f'{url}/config.json']


def test_large_files_are_read_in_parts(root, tmp_path, monkeypatch):
  monkeypatch.setattr(objects, '_PART', 1000)
  _, url = root
  board_cases.write(tmp_path)
  _upload(tmp_path, url)
  db = database.Database([url])
  db.refresh()
  assert db.runs['runs'].step == 100


def test_buckets_that_cannot_be_read_are_refused(root):
  _, url = root
  missing = url.replace('bucket', 'missing')
  with pytest.raises(errors.ConfigError, match=f'{missing}: cannot be read'):
    _rows([missing])
  with pytest.raises(errors.ConfigError, match='legal: gs://BUCKET'):
    _rows([url.partition('bucket')[0]])
