"""Tests kd runs on runs in buckets, next to the same runs on disk."""

import datetime
import json
import os

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


def _rows(roots):
  config = base.get_config()
  config.board.output, config.board.sort = 'json', 'run'
  runs_mode.main(config, None, roots)


def test_runs_in_buckets_are_listed_like_those_on_disk(root, tmp_path, capsys):
  _, url = root
  board_cases.write(tmp_path / 'sweep/a')
  board_cases.write(tmp_path / 'sweep/b', steps=50, ended=False)
  _upload(tmp_path, url)
  # Checkpoints and exports are not read.
  objects.write(f'{url}/sweep/a/checkpoints/1/run.json', b'no')
  objects.write(f'{url}/sweep/a/export/hf/config.json', b'no')
  shown = []
  for folder in (str(tmp_path), url):
    _rows([folder])
    values = json.loads(capsys.readouterr().out)
    for row in values['runs']:
      assert row['folder'] == f'{folder}/{row["run"]}'
      del row['folder'], row['age_s'], row['modified']
    shown.append(values)
  assert shown[0] == shown[1]
  assert [row['run'] for row in shown[1]['runs']] == ['sweep/a', 'sweep/b']


def test_runs_in_buckets_are_followed_by_their_leases(root, tmp_path):
  store, url = root
  board_cases.write(tmp_path, steps=50, ended=False)
  _upload(tmp_path, url)
  db = database.Database([url])
  shown = pages.Pages(db, database.Query(), [])

  def status():
    db.refresh()
    return db.statuses['runs'].name, db.runs['runs'].step

  assert status() == ('stopped', 50)
  objects.write(f'{url}/lease.json', json.dumps(_LEASE).encode())
  with open(tmp_path / 'metrics.jsonl', 'a') as f:
    f.writelines(board_cases.at(55, 1.0))
  _upload(tmp_path, url)
  assert status() == ('running', 55)
  run = json.loads(shown.answer('/api/run', {'run': ['runs']}))
  assert run['folder'] == url
  # The last renewal was ten minutes ago.
  store.modified['bucket', 'runs/lease.json'] -= datetime.timedelta(minutes=10)
  assert status() == ('stopped', 55)
  assert db.statuses['runs'].why == 'process 7 on vm was killed'
  objects.write(f'{url}/run.json', None)
  objects.write(f'{url}/lease.json', None)
  db.refresh()
  assert db.problems['runs'] == ['run.json is missing']


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
  db.refresh()
  assert not read
  objects.write(f'{url}/config.json', b'{"steps": 7}')
  db.refresh()
  assert read == [f'{url}/config.json']
  assert db.runs['runs'].config == {'steps': 7}


def test_buckets_that_cannot_be_read_are_refused(root):
  _, url = root
  missing = url.replace('bucket', 'missing')
  with pytest.raises(errors.ConfigError, match=f'{missing}: cannot be read'):
    _rows([missing])
