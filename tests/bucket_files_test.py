"""Tests single files and results of the compiler in buckets."""

import os
import types

import jax
import numpy as np
import pytest

from kd.config import command_line
from kd.core import bucket_copy
from kd.core import buckets
from kd.core import errors
from kd.core import json_lines
from kd.core import objects
from kd.core import paths
from kd.modes import search
from kd.planning import compile_client
from kd.planning import compile_worker
from tests import object_store


@pytest.fixture(params=['gs', 's3'])
def bucket(request, monkeypatch):
  """A store, and the URL of an empty folder in its bucket."""
  with object_store.serve_here(monkeypatch) as store:
    yield store, f'{request.param}://bucket/run'


def test_files_that_grow_are_uploaded_and_continued(bucket, monkeypatch):
  store, url = bucket
  path = paths.expand_file(f'{url}/a.jsonl')
  assert not list(json_lines.resume(path, 'lines'))
  with open(path, 'ab') as f:
    json_lines.append(f, [{'a': 1}])
    assert store.names('bucket') == []  # Not yet due.
    monkeypatch.setattr(bucket_copy, '_SYNC_EVERY_S', 0)
    json_lines.append(f, [{'a': 2}])
    assert store.read('bucket', 'run/a.jsonl') == b'{"a": 1}\n{"a": 2}\n'
  buckets._copies.clear()  # As in another process.
  objects.write(f'{url}/a.jsonl', b'{"a": 1}\n{"a"')
  path = paths.expand_file(f'{url}/a.jsonl')
  assert [x for _, x in json_lines.resume(path, 'lines')] == [{'a': 1}]
  json_lines.write(path, [{'a': 3}])
  assert store.read('bucket', 'run/a.jsonl') == b'{"a": 3}\n'
  assert buckets.shown(path) == f'{url}/a.jsonl'
  # In a copied workdir, it is one of the workdir's files.
  folder = paths.expand(f'{url}/sub')
  assert paths.expand_file(f'{url}/sub/b') == f'{folder}/b'
  for name in ('checkpoints/b', 'lease.json'):
    with pytest.raises(errors.ConfigError, match='kd uses itself'):
      paths.expand_file(f'{url}/sub/{name}')


def test_interrupted_downloads_are_not_uploaded(bucket, monkeypatch):
  store, url = bucket
  folder = paths.expand(url)
  monkeypatch.setattr(objects, '_PART', 200)
  objects.write(f'{url}/export/a', b'1' * 500)
  read_large = objects.read_large

  def fail(url, file):
    read_large(url, file)
    raise OSError('the object was replaced during a read')

  monkeypatch.setattr(objects, 'read_large', fail)
  with pytest.raises(OSError):
    buckets.fetch(f'{folder}/export')
  del store.writes[:]
  buckets.sync()
  assert not store.writes


@pytest.mark.parametrize('bucket', ['s3'], indirect=True)
def test_results_of_the_compiler_are_stored_once(bucket, monkeypatch):
  store, url = bucket
  compiled = []

  def compile_(lowered, folder):
    """Stands for the TPU compiler, which this environment lacks."""
    compiled.append(lowered)
    for name in compile_client.DUMPS:
      compile_worker._write(os.path.join(folder, name), name)
    return {'error': ''}

  monkeypatch.setattr(compile_worker, '_facts', compile_)
  monkeypatch.setattr(compile_worker, '_versions', dict)
  program = types.SimpleNamespace(
    mesh=jax.make_mesh((1,), ('data',)),
    function=jax.jit(lambda x: x + 1),
    arguments=(np.ones(2),),
  )

  def run():
    buckets._copies.clear()  # As in another process.
    folder = paths.expand_sparse(url)
    done = compile_worker._compile(program, 'v5e:1x1', folder)
    buckets._copies.clear()
    result = os.path.join(paths.expand_sparse(url), done['key'])
    buckets.fetch(result, check=False)
    assert compile_client.is_intact(result)
    return done

  assert not run()['damaged'] and len(compiled) == 1
  assert not run()['seconds'] and len(compiled) == 1
  # As after a kill during the upload.
  (name, *_) = [n for n in store.names('bucket') if n.endswith('.gz')]
  objects.remove([f's3://bucket/{name}'])
  assert run()['damaged'] and len(compiled) == 2
  assert not run()['seconds']


@pytest.mark.parametrize('bucket', ['gs'], indirect=True)
def test_trees_and_their_data_are_in_the_bucket(bucket, tmp_path, capsys):
  store, url = bucket
  table = 'Rank,Puzzles\n1,1 1 4 6\n'
  objects.write(f'{url}/24.csv', table.encode())
  config = command_line.load('experiments/game24/config_paths.py')
  config.search.update(
    data=f'{url}/24.csv', folder=f'{url}/trees', count=1, num_pictures=0
  )
  search.main(config, str(tmp_path))
  buckets.sync()  # As at the end of the program.
  names = store.names('bucket', 'run/trees/')
  assert 'run/trees/trees/game24-0001.json' in names
  assert 'run/trees/paths.jsonl' in names and not os.listdir(tmp_path)
  assert 'run/trees/lease.json' not in names
  buckets._copies.clear()  # As in another process.
  search.main(config, str(tmp_path))
  assert f'{url}/trees: 1 trees, the last of ' in capsys.readouterr().out
