"""Tests uploads of large files in parts to a local object store."""

import gc
import os
import signal
import subprocess
import sys

import pytest

from kd.core import errors
from kd.core import objects
from kd.core import part_uploads
from tests import object_store

_WRITE = """
import sys
from kd.core import objects
from kd.core import part_uploads
part_uploads._CHUNK = 10 << 20
objects._PART = 0
with open(sys.argv[1], 'rb') as f:
  objects.write_file(sys.argv[2], f)
"""


@pytest.fixture(params=['gs', 's3'])
def bucket(request, monkeypatch):
  """A store, and the URL of an object in its bucket."""
  monkeypatch.setattr(objects, '_PART', 1000)
  monkeypatch.setattr(part_uploads, '_CHUNK', 10 << 20)
  with object_store.serve_here(monkeypatch) as store:
    yield store, f'{request.param}://bucket/a b'


@pytest.fixture(name='data', scope='module')
def _data():
  return os.urandom(23 << 20)  # Three parts.


def _write(path, url):
  with open(path, 'rb') as f:
    return objects.write_file(url, f)


def test_parts_are_complete_despite_faults(bucket, tmp_path, data):
  store, url = bucket
  (tmp_path / 'a').write_bytes(data)
  # Each part has one fault: more would delay its next attempt by seconds.
  for faults in (object_store.FAULTS[:2], object_store.FAULTS[2:]):
    objects.write(url, b'old')
    during = []
    store.watch = lambda stored, to=during: to.append(
      store.read('bucket', 'a b')
    )
    store.inject(faults, every=3)
    generation = _write(tmp_path / 'a', url)
    assert not store.faults_left
    assert store.read('bucket', 'a b') == data == during.pop()
    assert len(during) >= 7 and set(during) == {b'old'}
    assert objects.read(url).generation == generation
  # In a single request.
  (tmp_path / 'a').write_bytes(b'1' * 1000)
  uploads = len(store.uploads)
  _write(tmp_path / 'a', url)
  assert store.read('bucket', 'a b') == b'1' * 1000
  assert len(store.uploads) == uploads


def test_an_upload_that_fails_changes_no_object(bucket, tmp_path, data):
  store, url = bucket
  objects.write(url, b'old')
  (tmp_path / 'a').write_bytes(data)

  checks = []

  def check():
    checks.append(1)
    if len(checks) > 2:
      raise errors.KdError('another run has taken the folder over')

  with open(tmp_path / 'a', 'rb') as f, pytest.raises(errors.KdError):
    objects.write_file(url, f, check)
  parts = []

  def refuse(stored):
    parts.append(stored)
    if len(parts) > 2:
      raise PermissionError

  store.watch = refuse
  with pytest.raises(OSError) as e:
    _write(tmp_path / 'a', url)
  assert e.value.filename == url
  gc.collect()
  assert store.read('bucket', 'a b') == b'old'


def test_a_killed_upload_changes_no_object(bucket, tmp_path, data):
  store, url = bucket
  (tmp_path / 'a').write_bytes(data)
  process = subprocess.Popen(
    [sys.executable, '-c', _WRITE, str(tmp_path / 'a'), url]
  )
  parts = []

  def kill(stored):
    parts.append(stored)
    if len(parts) == 3:
      process.kill()

  store.watch = kill
  assert process.wait(60) == -signal.SIGKILL
  assert store.names('bucket') == [] and len(store.uploads) == 1
  _write(tmp_path / 'a', url)
  assert store.read('bucket', 'a b') == data


def test_files_too_large_for_s3_are_errors(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(part_uploads, '_MOST_S3', 2000)
  (tmp_path / 'a').write_bytes(b'1' * 2001)
  if bucket[1].startswith('gs'):
    assert _write(tmp_path / 'a', bucket[1])
    return
  with pytest.raises(OSError, match='has 2,001 bytes, and S3 takes 2,000'):
    _write(tmp_path / 'a', bucket[1])
