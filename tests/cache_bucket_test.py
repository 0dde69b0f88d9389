"""Tests that a cache in a bucket equals one on disk."""

import dataclasses
import hashlib

import jax
import numpy as np

from kd.config import base
from kd.core import buckets
from kd.core import objects
from kd.run import resolve
from kd.teachers.cache import manifest as manifest_lib
from kd.teachers.cache import teacher_files
from kd.train import training_rows
from kd.train.feeds import cached as cached_feed
from tests import cache_runs
from tests import command
from tests import object_store


def test_caches_in_a_bucket_are_the_same(tmp_path, monkeypatch):
  url = 'gs://bucket/cache'
  method = {'cache.method': base.cache_method('hidden')}
  local = tmp_path / 'local'
  with command.compiled_once():
    cache_runs.write(tmp_path, local, **method)
  with (
    object_store.serve_here(monkeypatch) as store,
    command.compiled_once(),
  ):
    cache_runs.write(tmp_path, url, **method)
    expected = {path.name: path.read_bytes() for path in local.iterdir()}
    assert store.names('bucket') == [f'cache/{x}' for x in sorted(expected)]
    for name, data in expected.items():
      assert store.read('bucket', f'cache/{name}') == data, name
    # A shard is written before its facts, and the manifest last.
    order = [name.removeprefix('cache/') for name in store.writes]
    shard = next(name for name in order if name.endswith('.array_record'))
    facts = shard.partition('.')[0] + '.json'
    assert order.index(shard) < order.index(facts)
    manifest = order.index(manifest_lib.FILE)
    assert manifest > max(
      order.index(name) for name in expected if 'record' in name
    )
    # The cache is complete for another process.
    buckets._copies.clear()
    config = cache_runs.cached(tmp_path, url, **method)
    run = resolve.resolve(config, jax.devices())
    prepared = training_rows.prepare(run, print)
    read = cached_feed.open_cache(run, prepared)
    here = cached_feed.open_cache(
      resolve.resolve(
        cache_runs.cached(tmp_path, local, **method), jax.devices()
      ),
      prepared,
    )
    for number in range(cache_runs.ROWS):
      np.testing.assert_equal(
        dataclasses.asdict(read.row(number)),
        dataclasses.asdict(here.row(number)),
      )


def test_files_of_a_teacher_in_a_bucket_are_recorded(tmp_path, monkeypatch):
  url = 's3://bucket/run'
  with object_store.serve_here(monkeypatch):
    step = f'{url}/checkpoints/4'
    for name, data in (('digests.json', b'{}'), ('commit_success.txt', b'')):
      objects.write(f'{step}/{name}', data)
    init, cache = {'teacher.init': f'workdir:{url}'}, str(tmp_path)
    described = teacher_files.describe(init, cache)
    (tmp_path / 'manifest.json').write_text('{}')
    teacher_files.record(cache, described)
    digest = hashlib.sha256(b'{}').hexdigest()
    assert described['teacher.init']['files'] == {
      'digests.json': [2, 0, digest]
    }
    assert not teacher_files.warnings(cache, init, cache)
    objects.write(f'{step}/digests.json', b'[]')
    (line,) = teacher_files.warnings(cache, init, cache)
    assert f'(SHA-256 {digest[:16]} then, ' in line
