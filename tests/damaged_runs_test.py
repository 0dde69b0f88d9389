"""Tests that randomly damaged outputs read the same, or the file is named.

Covers caches, checkpoints, prepared rows, prompts and answers. Files are also
replaced with intact files of another run.
"""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from kd.checkpoints import manager as manager_lib
from kd.checkpoints import repair
from kd.core import types
from kd.input_pipeline import file_digests
from kd.input_pipeline import mixtures
from kd.input_pipeline import prepare
from kd.input_pipeline import prepared
from kd.input_pipeline import retry
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import tokenizers
from kd.partitioning import mesh as mesh_lib
from kd.sampling import prompts
from kd.sampling import requests
from kd.teachers.cache import compression
from kd.teachers.cache import manifest as manifest_lib
from kd.teachers.cache import reader
from kd.teachers.cache import scoring
from kd.teachers.cache import shard_writer
from kd.teachers.cache import shards
from tests import damage

_SECONDS = 4
_PATIENCE = retry.RetryPolicy(attempts=1, wait_s=0.0, timeout_s=60.0)
_ROWS, _LENGTH, _VOCAB, _WIDTH = 4, 16, 90, 8


def _assert_equal(found, expected):
  """Asserts that every bit of two trees of arrays is equal."""
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def _batch():
  zeros = np.zeros((_ROWS, _LENGTH), np.int32)
  numbers = np.arange(_ROWS, dtype=np.int32)
  return types.Batch(
    tokens=zeros + numbers[:, None],
    targets=zeros,
    positions=zeros + np.arange(_LENGTH, dtype=np.int32),
    segment_ids=zeros + 1,
    parts=zeros,
    weights=np.ones((_ROWS, _LENGTH), np.float32),
    row_id=numbers,
  )


def _scored(method, rng):
  """Returns random targets in the form of a teacher's."""
  shape = (_ROWS, _LENGTH)
  kept = compression.Compressed(None, None, None, None, None)
  if method.entries:
    ids = rng.permuted(np.tile(np.arange(_VOCAB), (*shape, 1)), axis=-1)
    ids = np.sort(ids[..., : method.entries])
    counts = rng.integers(1, method.draws, ids.shape)
    logprobs = np.full(ids.shape, -3, np.float32)
    kept = compression.Compressed(ids, logprobs, counts, None, None)
  else:
    hidden = rng.normal(size=(*shape, _WIDTH)).astype(np.float32)
    kept = compression.Compressed(None, None, None, None, hidden)
  ones = np.ones(shape, np.float32)
  return scoring.Scored(kept, -ones, ones, ones, 0 * ones, ones[..., None] > 0)


def _write_cache(folder, settings, teacher):
  """Writes the cache of a teacher, which is represented by a number."""
  folder.mkdir()
  rng = np.random.default_rng(teacher)
  method = compression.METHODS.build(settings, 'method')
  plan = shards.plan(_ROWS, 2)
  described = {'digest': f'{teacher}', 'dtype': 'float32'}
  request = {
    'method': settings,
    'vocab_size': _VOCAB,
    'teachers': [described],
  }
  series = shard_writer.ShardWriter(
    str(folder),
    plan,
    method,
    _VOCAB,
    ['teacher'],
    manifest_lib.cache_digest(request),
  )
  batch, scored = _batch(), _scored(method, rng)
  for row in range(_ROWS):
    series.add(batch, scored, row)
  files = {}
  if not method.entries:
    table = rng.normal(size=(_VOCAB, _WIDTH)).astype(np.float32)
    files[reader.UNEMBEDDING] = reader.write_unembedding(str(folder), table)
  facts = [shards.facts(str(folder), shard) for shard in plan]
  manifest_lib.publish(str(folder), request, facts, files)
  shards.remove_temporary_files(str(folder))


def _read_cache(folder, mesh):
  manifest = manifest_lib.read(str(folder), 'cache.folder')
  cache = reader.Cache(str(folder), manifest, _PATIENCE)
  targets = cache.read(_batch())
  if cache.method.entries:
    return targets
  return targets, reader.unembedding(cache, _VOCAB, mesh)


@pytest.mark.parametrize(
  'settings',
  [
    {'name': 'sampled', 'draws': 5, 'logprobs': 'float16'},
    {'name': 'hidden', 'values': 'int8'},
  ],
  ids=lambda settings: settings['name'],
)
def test_caches(settings, tmp_path):
  folder, other = tmp_path / 'cache', tmp_path / 'other'
  _write_cache(folder, settings, 0)
  _write_cache(other, settings, 1)
  sizes = dict(data=1, fsdp=1, tensor=1, sequence=1)
  mesh = mesh_lib.make(sizes, jax.devices()[:1])
  expected = _read_cache(folder, mesh)
  damage.fuzz(
    settings['name'],
    damage.seed(),
    folder,
    lambda: _assert_equal(_read_cache(folder, mesh), expected),
    _SECONDS / 2,
    other,
  )


def _prepare(folder, seed):
  """Returns the parts of a mixture with rows shuffled by `seed`."""
  return prepare.prepare(
    mixtures.task('arithmetic_few', 'kd.data.mixtures'),
    'train',
    tokenizer=tokenizers.load('bytes'),
    template='plain',
    length=100,
    pack=True,
    seed=seed,
    cache_dir=str(folder),
    limit=20,
    retry_policy=_PATIENCE,
    say=lambda line: None,
  )


def _read_rows(folder, part):
  """Opens a folder of rows as `prepare` does; returns examples and rows."""
  parts = prepared.open_folder(
    str(folder),
    part.manifest['request'],
    part.pad_id,
    _PATIENCE,
    True,
    file_digests.Digests(str(folder.parent)),
  )
  rows = rows_lib.Numbered(parts)
  return list(parts[0].examples()), rows(range(len(rows)))


def test_prepared_rows(tmp_path):
  # The same examples in another order.
  (part,), (shuffled,) = (_prepare(tmp_path, seed) for seed in (0, 1))
  folder = pathlib.Path(part.folder)
  expected = _read_rows(folder, part)

  def read():
    examples, rows = _read_rows(folder, part)
    assert examples == expected[0]
    _assert_equal(rows, expected[1])

  other = pathlib.Path(shuffled.folder)
  damage.fuzz('rows', damage.seed(), folder, read, _SECONDS, other)


def _save(folder, seed):
  """Saves two checkpoints of a run; returns their contents by step."""
  rng = np.random.default_rng(seed)
  saved = {
    step: {
      'params': {'w': rng.normal(size=(8, 8)).astype(np.float32)},
      'optimizer': {'n': np.full(3, step, np.int32)},
    }
    for step in (1, 2)
  }
  manager = manager_lib.Manager(str(folder), 2)
  for step, items in saved.items():
    items = jax.tree.map(jax.numpy.asarray, items)
    manager.save(step, items, {'rows': f'{seed}'}, 1.0 / step)
  manager.close()
  return saved


def _resume(workdir, like):
  """Moves damaged checkpoints aside like training, and restores the latest."""
  aside = repair.repair(str(workdir / manager_lib.FOLDER))
  manager = manager_lib.Manager(str(workdir), 2)
  step = manager.latest_step()
  items, position = manager.restore(step, like)
  manager.close()
  return step, items, position, bool(aside)


def _load(workdir, like):
  """Reads the parameters of the latest checkpoint, as other runs do."""
  manager = manager_lib.Manager(str(workdir), 1, read_only=True)
  step = manager.latest_step()
  manager.check_whole(step, ('params', 'position'), 'student.init')
  items, position = manager.restore(step, {'params': like['params']})
  manager.close()
  return step, items, position, False


@pytest.mark.parametrize('load', [_resume, _load])
def test_checkpoints(load, tmp_path):
  folder, other = tmp_path / 'run', tmp_path / 'other'
  saved = _save(folder, 0)
  _save(other, 1)
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    saved[2],
  )

  def read():
    step, items, position, noticed = load(folder, like)
    _assert_equal(items, {name: saved[step][name] for name in items})
    assert position == {'rows': '0'}
    return noticed

  name = f'checkpoints{load.__name__}'
  damage.fuzz(name, damage.seed(), folder, read, _SECONDS, other)


def _generate(folder, tokenizer):
  """Answers prompts like --mode=generate, with a model that generates 'ab'."""
  asked = prompts.read(str(folder / 'prompts.jsonl'), tokenizer, 'plain')
  sample = requests.Sample((5, 6), (-0.5, -0.25), 'ab', 'stop')
  settings = requests.greedy(4)
  records = prompts.answer_file(
    lambda some: ((i, [sample]) for i in range(len(some))),
    asked,
    prompts.requests_of(asked, 0, 1),
    settings,
    str(folder / 'answers.jsonl'),
    logprobs=True,
    model='m',
    say=lambda line: None,
  )
  for number, record in enumerate(records):
    assert record['index'] == number
    for kept in record['samples']:
      assert kept.keys() == {'text', 'finish', 'tokens', 'ids', 'logprobs'}
      assert isinstance(kept['text'], str) and isinstance(kept['tokens'], int)
      assert kept['finish'] in requests.FINISHES


def test_prompts_and_answers(tmp_path):
  folder, tokenizer = tmp_path / 'prompts', tokenizers.load('bytes')
  folder.mkdir()
  lines = [
    {'prompt': '1+1=?'},
    {'messages': [{'role': 'user', 'content': '2+2=?'}], 'id': 7},
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'prompts.jsonl').write_text(text)
  read = functools.partial(_generate, folder, tokenizer)
  read()
  damage.fuzz('prompts', damage.seed(), folder, read, _SECONDS / 2)
