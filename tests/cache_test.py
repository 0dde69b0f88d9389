"""Tests writing, inspecting and training from a cache, in one process."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy
from sentencepiece import sentencepiece_model_pb2

from kd.config import base
from kd.core import types
from kd.input_pipeline import rows as rows_lib
from kd.modes import train as train_mode
from kd.partitioning import rules
from kd.run import lock
from kd.run import resolve
from kd.teachers.cache import compression
from kd.teachers.cache import manifest as manifest_lib
from kd.teachers.cache import records
from kd.teachers.cache import shards
from kd.train import training_rows
from kd.train.feeds import cached as cached_feed
from kd.train.feeds import live as live_feed
from tests import alternating
from tests import cache_runs
from tests import command

_ROWS = cache_runs.ROWS
_METHODS = {
  'top_k': dict(entries=264, logprobs='float16'),
  'sampled': {},
  'hidden': {},
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cache')
  with command.compiled_once(), alternating.variants():
    yield folder


@pytest.fixture(scope='module')
def caches(folder):
  """A cache of each method."""
  for name, arguments in _METHODS.items():
    method = base.cache_method(name, **arguments)
    cache_runs.write(folder, folder / name, **{'cache.method': method})
  return {name: folder / name for name in _METHODS}


@pytest.fixture
def own(caches, tmp_path):
  """Copies of caches, for tests that damage them."""

  def copy(name):
    shutil.copytree(caches[name], tmp_path / name)
    return tmp_path / name

  return copy


def _losses(folder, config, name):
  train_mode.main(config, str(folder / name))
  lines = command.metrics(str(folder / name))
  return [x['train/loss/kl'] for x in lines if x['phase'] == 'train']


def _shard(cache, number):
  (name,) = (x for x in os.listdir(cache) if f'targets-{number:05d}-' in x)
  return cache / name


def _flip(path, share):
  data = bytearray(path.read_bytes())
  data[int(len(data) * share)] ^= 16
  path.write_bytes(data)


def _bytes(cache):
  return {p.name: p.read_bytes() for p in sorted(cache.iterdir())}


def test_report_and_rows_of_a_cache(folder, caches, capsys):
  for name in caches:
    method = base.cache_method(name, **_METHODS[name])
    changes = {'cache.method': method, 'cache.verify': 6}
    before = _bytes(caches[name])
    capsys.readouterr()
    cache_runs.write(folder, caches[name], **changes)
    said = capsys.readouterr().out
    assert f'{_ROWS} rows in 4 files' in said and '6 rows scored again' in said
    assert _bytes(caches[name]) == before
    with open(folder / 'report' / 'cache.json') as f:
      report = json.load(f)
    assert report['rows'] == _ROWS and report['method']['name'] == name
    assert report['nll'] == pytest.approx(0.0015, abs=0.01)


def test_records_equal_a_forward_pass(folder, caches):
  """The order and size of batches do not matter."""
  run = resolve.resolve(
    cache_runs.config(folder, caches['top_k']), jax.devices()
  )
  parts = training_rows.prepare(run, lambda line: None)
  (teacher,) = live_feed.load(run)
  whole = rows_lib.Numbered(parts)(range(_ROWS))
  with rules.active(run.mesh):
    nothing = types.TapSpec((), ())
    hidden, _ = teacher.model.forward(teacher.params, whole, nothing)
  table = np.asarray(teacher.params['embedding'], np.float64)
  size = run.tokenizer.vocab_size
  assert size < len(table)
  logits = np.asarray(hidden, np.float64) @ table[:size].T
  normalizer = np.log(np.exp(logits).sum(-1))
  direct = logits - normalizer[..., None]
  opened = {
    name: cached_feed.open_cache(
      resolve.resolve(
        cache_runs.config(folder, c, **{'cache.folder': str(c)}), jax.devices()
      ),
      parts,
    )
    for name, c in caches.items()
  }
  seen = set()
  for seed, batch_size in ((0, 1), (5, 3), (9, 7)):
    rows = rows_lib.Rows(parts, batch_size, seed, shuffle=True, rates='rows')
    batch = rows(1, range(batch_size))
    top, drawn = opened['top_k'].read(batch), opened['sampled'].read(batch)
    hidden_now = opened['hidden'].read(batch).astype(np.float32)
    for i, row in enumerate(map(int, batch.row_id)):
      seen.add(row)
      counted = batch.weights[i] != 0
      at = np.flatnonzero(counted)
      # A target is the next token.
      assert (batch.targets[i, at[:-1]] == batch.tokens[i, at[:-1] + 1]).all()
      stored = opened['top_k'].row_of(batch, i)
      np.testing.assert_allclose(
        stored.target_logprob,
        direct[row, at, batch.targets[i, at]],
        rtol=2e-3,
        atol=1e-3,
      )
      np.testing.assert_allclose(
        stored.log_normalizer, normalizer[row, at], 1e-4, 1e-4
      )
      assert (top.ids[i, at, :size] == np.arange(size)).all()
      np.testing.assert_allclose(
        top.logprobs[i, at, :size], direct[row, at], 2e-3, 2e-3
      )
      assert (top.ids[i, ~counted] == -1).all()
      # Padding rows of the output embedding are never drawn.
      assert drawn.ids.max() < size
      np.testing.assert_allclose(drawn.weights[i, at].sum(-1), 1, 1e-6)
      np.testing.assert_allclose(
        hidden_now[i, at], np.asarray(hidden)[row, at], 2**-8, 1e-6
      )
  assert len(seen) > 5
  with cache_runs.refused('has no row 10', 'rows 0 to 9'):
    opened['top_k'].row(_ROWS)


@pytest.fixture(scope='module')
def live(folder):
  """Losses of live runs by seed and batch size."""
  return {
    (seed, size): _losses(
      folder,
      cache_runs.config(folder, '', **{'seed': seed, 'data.batch_size': size}),
      f'live-{seed}-{size}',
    )
    for seed, size in ((0, 4), (3, 2))
  }


@pytest.mark.parametrize(
  ('name', 'case', 'far'),
  [
    ('top_k', (0, 4), 1e-3),
    ('top_k', (3, 2), 1e-3),
    ('hidden', (0, 4), 1e-3),
    ('sampled', (0, 4), 0.05),
  ],
)
def test_losses_equal_the_live_runs(name, case, far, folder, caches, live):
  seed, size = case
  changes = {'seed': seed, 'data.batch_size': size}
  config = cache_runs.cached(folder, caches[name], **changes)
  found = _losses(folder, config, f'cached-{name}-{seed}')
  assert len(found) == 4
  np.testing.assert_allclose(found, live[case], far)


def test_a_stopped_cached_run_ends_with_equal_results(folder, caches):
  changes = {'checkpoint.every': 1, 'checkpoint.keep': 4}
  config = cache_runs.cached(folder, caches['top_k'], **changes)
  straight, stopped = folder / 'straight', folder / 'stopped'
  train_mode.main(config, str(straight))
  shutil.copytree(straight, stopped)
  for step in (3, 4):
    shutil.rmtree(stopped / 'checkpoints' / str(step))
  train_mode.main(config, str(stopped))
  command.assert_ended_alike(str(stopped), str(straight), 4)


def test_caches_of_other_settings_are_refused(folder, caches):
  c = caches['top_k']
  workdir = folder / 'refused'
  for changes, words in (
    ({'data.length': 72}, ['length: recorded 64, now 72', 'rows.']),
    ({'data.examples': 9}, ['rows: recorded 10, now 9']),
    ({'data.seed': 1, 'data.pack': False}, ['pack: recorded True, now False']),
    ({'data.split': 'validation'}, ["split: recorded 'train'"]),
  ):
    with cache_runs.refused('cache.folder', *words):
      train_mode.main(cache_runs.cached(folder, c, **changes), str(workdir))
  # Nothing was written to the workdir.
  assert not workdir.exists()
  terms = {
    'losses': {'kl': base.term('forward_kl'), 'h': base.term('hidden_states')}
  }
  with cache_runs.refused('losses.h', 'a cache holds no layer outputs'):
    train_mode.main(cache_runs.cached(folder, c, **terms), str(workdir))
  with cache_runs.refused('cache.folder', 'no such folder'):
    train_mode.main(cache_runs.cached(folder, folder / 'nowhere'), str(workdir))
  with (
    lock.hold(str(c), 'x'),
    cache_runs.refused('in use by process', 'cache.folder'),
  ):
    cache_runs.write(folder, c)


def test_another_tokenizer_is_refused(folder, caches):
  """The error names the first id that differs."""
  c = caches['top_k']
  proto = sentencepiece_model_pb2.ModelProto.FromString(
    (c / 'tokenizer.model').read_bytes()
  )
  proto.pieces[4].piece = '<start_of_tern>'
  (folder / 'other.model').write_bytes(proto.SerializeToString())
  other = {'data.tokenizer': f'model:{folder / "other.model"}'}
  with cache_runs.refused('cache.folder', 'id 4 is', '<start_of_tern>'):
    train_mode.main(
      cache_runs.cached(folder, c, **other), str(folder / 'refused')
    )


def test_another_teacher_or_method_or_format_is_refused(folder, own):
  c = own('top_k')
  method = {'cache.method': base.cache_method('top_k', **_METHODS['top_k'])}
  with cache_runs.refused('method.entries: recorded 264, now 64'):
    cache_runs.write(folder, c)
  # The same weights, rounded, count as another teacher.
  other = {'teacher.param_dtype': 'bfloat16'}
  with cache_runs.refused('teachers', 'digest'):
    cache_runs.write(folder, c, **method, **other, **{'cache.repair': True})
  manifest = json.loads((c / 'manifest.json').read_text())
  # An incomplete cache that is resumed.
  os.rename(c / 'manifest.json', c / 'kept')
  with cache_runs.refused('teachers', 'digest'):
    cache_runs.write(folder, c, **method, **other)
  with cache_runs.refused('being written, or was left incomplete'):
    train_mode.main(cache_runs.cached(folder, c), str(folder / 'refused'))
  (c / 'manifest.json').write_text(json.dumps({**manifest, 'format': 1}))
  with cache_runs.refused('format: found 1', 'legal: 2'):
    train_mode.main(cache_runs.cached(folder, c), str(folder / 'refused'))


def _break(how, path):
  if how == 'flipped':
    _flip(path, 0.02)  # In the first record: most of a small file is padding.
  elif how == 'cut':
    path.write_bytes(path.read_bytes()[:-1])
  else:
    path.unlink()


@pytest.mark.parametrize('how', ['flipped', 'cut', 'missing'])
def test_damage_is_named_and_repaired(how, folder, own):
  c = own('hidden')
  method = {'cache.method': base.cache_method('hidden')}
  before = _bytes(c)
  for path in (_shard(c, 1), c / 'unembedding.safetensors'):
    _break(how, path)
  times = {p.name: p.stat().st_mtime_ns for p in c.iterdir()}
  words = {
    'flipped': 'does not match its recorded SHA-256',
    'cut': 'bytes, ',
    'missing': 'is missing',
  }[how]
  named = ('targets-00001-of-00004', 'unembedding')
  with cache_runs.refused('cache.folder', words, *named, 'cache.repair=True'):
    cache_runs.write(folder, c, **method)
  table = c / 'unembedding.safetensors'
  table.write_bytes(before[table.name])
  with cache_runs.refused('cache.folder', 'targets-00001-of-00004'):
    # Raised at the start, or at the first row of the damaged file.
    train_mode.main(
      cache_runs.cached(folder, c), str(folder / f'damaged-{how}')
    )
  _break(how, table)
  cache_runs.write(folder, c, **method, **{'cache.repair': True})
  assert _bytes(c) == before
  for path in c.iterdir():
    mended = any(x in path.name for x in (*named, 'manifest'))
    others = ('lock', 'tokenizer.model')
    if not mended and path.name not in others:
      assert path.stat().st_mtime_ns == times[path.name], path


def test_a_changed_unembedding_is_refused_before_training(folder, own):
  c = own('hidden')
  _flip(c / 'unembedding.safetensors', 0.9)
  with cache_runs.refused('unembedding.safetensors', 'was changed'):
    train_mode.main(cache_runs.cached(folder, c), str(folder / 'table'))


def _manifest(cache):
  return manifest_lib.read(str(cache), 'cache.folder')


def _publish(cache, manifest):
  """Writes a changed manifest, with its digest."""
  parts = (manifest[key] for key in ('request', 'shards', 'files'))
  manifest_lib.publish(str(cache), *parts)


def _adopt(cache, other):
  """Writes the records of another cache as those of this one's teacher."""
  mine, theirs = _manifest(cache), _manifest(other)
  vocab_size = mine['request']['vocab_size']
  method = compression.METHODS.build(mine['request']['method'], 'method')
  from_id, to_id = (
    manifest_lib.cache_digest(x['request']) for x in (theirs, mine)
  )
  for number, facts in enumerate(theirs['shards']):
    shard = shards.plan(_ROWS, theirs['shards'][0]['rows'])[number]
    writer = shards.Writer(str(cache), shard)
    for record in shards.read_records(str(other), facts):
      row = records.decode(record, method, vocab_size, from_id)
      writer.write(records.encode(row, method, vocab_size, to_id))
    writer.finish(facts['statistics'])
    mine['shards'][number] = shards.facts(str(cache), shard)
  shards.remove_temporary_files(str(cache))
  _publish(cache, mine)


def test_verification_detects_another_teachers_targets(folder, own):
  c = own('top_k')
  method = {'cache.method': base.cache_method('top_k', **_METHODS['top_k'])}
  teacher = folder / 'other-teacher'
  shutil.copytree('data/fixtures/quickstart_teacher', teacher)
  weights = teacher / 'model.safetensors'
  tensors = numpy.load_file(weights)
  tensors['model.norm.weight'] = -tensors['model.norm.weight'] - 2
  numpy.save_file(tensors, weights)
  other = {**method, 'teacher.init': f'hf:{teacher}', 'cache.verify': 4}
  cache_runs.write(folder, folder / 'other', **{**other, 'cache.verify': 0})
  _adopt(folder / 'other', c)
  with cache_runs.refused('4 rows scored again', 'largest error', '0.1 nats'):
    cache_runs.write(folder, folder / 'other', **other)


def test_records_on_other_rows_are_refused(folder, own):
  c = own('top_k')
  method = {'cache.method': base.cache_method('top_k', **_METHODS['top_k'])}
  manifest = _manifest(c)
  one, two = manifest['shards'][:2]
  for key in ('file', 'bytes', 'sha256', 'statistics'):
    one[key], two[key] = two[key], one[key]
  _publish(c, manifest)
  with cache_runs.refused('cache.folder', 'are of a row with digest'):
    cache_runs.write(folder, c, **method, **{'cache.verify': _ROWS})
  with cache_runs.refused('cache.folder', 'are of a row with digest'):
    train_mode.main(cache_runs.cached(folder, c), str(folder / 'permuted'))


def test_a_shard_of_another_teachers_cache_is_refused(folder, own, tmp_path):
  """The other cache has the same rows and the same size."""
  c, method = own('top_k'), base.cache_method('top_k', **_METHODS['top_k'])
  other = {'cache.method': method, 'teacher.param_dtype': 'bfloat16'}
  cache_runs.write(folder, tmp_path / 'rounded', **other)
  shutil.copy(_shard(tmp_path / 'rounded', 0), _shard(c, 0))
  with cache_runs.refused(
    'cache.folder', 'targets-00000-of-00004', 'recorded SHA-256'
  ):
    train_mode.main(cache_runs.cached(folder, c), str(tmp_path / 'run'))


def test_folders_without_write_access_are_refused(folder):
  (folder / 'file').write_text('')
  with cache_runs.refused('cache.folder', 'cannot be written'):
    cache_runs.write(folder, folder / 'file' / 'cache')
