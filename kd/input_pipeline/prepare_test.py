"""Prepared rows: complete, reused, rejected if damaged, safe in parallel."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from kd.core import errors
from kd.input_pipeline import mixtures
from kd.input_pipeline import packing
from kd.input_pipeline import prepare
from kd.input_pipeline import prepared
from kd.input_pipeline import retry
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import shard_files
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers


def _prepare(
  folder, name='arithmetic_few', module='kd.data.mixtures', **changes
):
  arguments = (
    dict(
      split='train',
      tokenizer=tokenizers.load('bytes'),
      template='plain',
      length=100,
      pack=True,
      seed=0,
      cache_dir=str(folder),
      limit=60,
      retry_policy=retry.RetryPolicy(attempts=1, wait_s=0.0, timeout_s=60.0),
      say=lambda line: None,
    )
    | changes
  )
  return prepare.prepare(mixtures.task(name, module), **arguments)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('rows')


def test_rows_contain_the_examples(cache):
  (part,) = _prepare(cache)
  examples = list(part.examples())
  tokenizer = tokenizers.load('bytes')
  expected = sorted(
    tuple(column.tolist() for column in columns)
    for e in examples
    for columns in [
      templates.encode(
        tokenizer,
        'plain',
        templates.exchange(e['inputs'], e['targets'], e['rationale']),
      )
    ]
  )
  found = []
  for batch in rows_lib.batches([part], 1, [0]):
    for segment in range(1, batch.segment_ids.max() + 1):
      at = batch.segment_ids == segment
      columns = batch.targets, batch.parts, batch.weights
      # BOS is not a target: part and weight 0.
      found.append(
        tuple(
          [first, *column[at].tolist()]
          for first, column in zip((2, 0, 0.0), columns, strict=True)
        )
      )
  assert sorted(found) == expected
  assert len(examples) == 60 and all(e['in_rows'] for e in examples)
  assert part.counts['target_weight'] == sum(sum(w) for _, _, w in expected)
  assert part.counts['rationale_weight'] == sum(
    len(e['rationale']) for e in examples
  )
  assert part.counts['tokens'] == sum(len(i) - 1 for i, _, _ in expected)


def test_rows_of_another_format_are_not_read(tmp_path, monkeypatch):
  with monkeypatch.context() as older:
    older.setattr(prepare, 'FORMAT', prepare.FORMAT - 1)
    (old,) = _prepare(tmp_path, limit=30)
  (new,) = _prepare(tmp_path, limit=30)
  assert new.folder != old.folder
  os.rename(new.folder, tmp_path / 'away')
  os.rename(old.folder, new.folder)
  with pytest.raises(errors.ConfigError, match='format is .*delete it'):
    _prepare(tmp_path, limit=30)


def test_without_packing_the_length_adds_only_padding(cache):
  (part,), (longer,) = (
    _prepare(cache, length=n, pack=False) for n in (64, 128)
  )
  short, long = (
    next(rows_lib.batches([p], 60, range(60))) for p in (part, longer)
  )
  for field in packing.FIELDS:
    a, b = (getattr(batch, field) for batch in (short, long))
    np.testing.assert_array_equal(b[:, :64], a)
    # Segment 0 excludes padding from attention, and weight 0 from the loss.
    assert not b[:, 64:].any()
  assert set(short.segment_ids.flat) == {0, 1}
  # In the order of the file, each up to its EOS.
  for i, example in enumerate(part.examples()):
    said = short.targets[i, short.weights[i] > 0]
    assert tokenizers.load('bytes').decode(said) == example['targets']
    assert said[-1] == 1 == (said == 1).sum()


def test_rows_are_reused_only_for_the_same_request(cache):
  (first,) = _prepare(cache)
  (file,) = first.files(shard_files.ROWS)
  before = os.stat(file).st_mtime_ns
  (again,) = _prepare(cache)
  assert again == first
  assert os.stat(file).st_mtime_ns == before
  (other,) = _prepare(cache, seed=1)
  assert other.folder != first.folder
  assert other.counts['rows_sha256'] != first.counts['rows_sha256']
  assert not [n for n in os.listdir(cache) if n.startswith('.')]


def test_too_long_examples_are_reported_and_left_out(cache):
  lines = []
  (part,) = _prepare(cache, length=44, pack=False, say=lines.append)
  left = [e['id'] for e in part.examples() if not e['in_rows']]
  lengths = {
    e['id']: len(tokenizers.load('bytes').encode(e['inputs'] + e['targets']))
    for e in part.examples()
  }
  # BOS, the text and EOS are 2 ids more than the text, 1 position more.
  assert left == [i for i, n in lengths.items() if n + 1 > 44] != []
  assert part.counts['too_long'] == len(left)
  assert part.counts['rows'] == 60 - len(left)
  assert any(f'{len(left)} of 60' in line for line in lines)
  assert part.counts['too_long_ids'] == left[: shard_files.NAMED]
  for batch in rows_lib.batches([part], 1, [0]):
    assert batch.targets[batch.segment_ids == 1][-1] == 1


def test_damage_is_named(tmp_path):
  (part,) = _prepare(tmp_path)
  (file,) = part.files(shard_files.EXAMPLES)
  with open(file, 'a') as f:
    f.write('{}\n')
  with pytest.raises(errors.ConfigError, match='was changed.*delete it'):
    _prepare(tmp_path)
  manifest = os.path.join(part.folder, prepared.MANIFEST)
  with open(manifest) as f:
    wrong = json.load(f)
  wrong['request']['length'] = 7
  with open(manifest, 'w') as f:
    json.dump(wrong, f)
  with pytest.raises(errors.ConfigError, match='manifest.json: was changed'):
    _prepare(tmp_path)


def test_rows_of_another_order_are_refused(tmp_path):
  (part,), (other,) = (_prepare(tmp_path, seed=seed) for seed in (0, 1))
  assert part.counts['rows'] == other.counts['rows']
  shutil.copy(*(p.files(shard_files.ROWS)[0] for p in (other, part)))
  with pytest.raises(errors.ConfigError, match='array_record: was changed'):
    _prepare(tmp_path)


def test_refresh_replaces_files_that_were_damaged(tmp_path):
  (part,) = _prepare(tmp_path)
  whole = {f.name: f.read_bytes() for f in pathlib.Path(part.folder).iterdir()}
  (name,) = (name for name in whole if name.endswith('.array_record'))
  file = pathlib.Path(part.folder) / name
  file.write_bytes(whole[name][:1000])
  (again,) = _prepare(tmp_path, refresh=True)
  assert again.folder == part.folder
  assert file.read_bytes() == whole[name]
  assert sorted(os.listdir(part.folder)) == sorted(whole)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError('disk full')

  monkeypatch.setattr(packing, 'fill', fail)
  with pytest.raises(OSError, match='disk full'):
    _prepare(tmp_path)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'name': 'arithmetic_cott'}, "did you mean 'arithmetic_cot'"),
    ({'split': 'valid'}, "did you mean 'validation'"),
    ({'module': 'data.mixtuers'}, "no Python module 'data.mixtuers'"),
    ({'template': 'gema'}, "did you mean 'gemma'"),
    ({'length': 5}, '5 is too short for every.*legal: 33 or more'),
    ({'length': 0}, 'data.length: 0'),
    ({'limit': 0}, 'data.examples: 0'),
  ],
)
def test_wrong_requests(cache, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    _prepare(cache, **changes)
