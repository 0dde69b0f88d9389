"""Writes the files of a shard: its rows, its examples and its counts.

The file of counts is written last and marks the shard as complete, so that
interrupted preparations can resume and several processes can share the work.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import os
from typing import Any

from array_record.python import array_record_module
import numpy as np

from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import folders
from kd.core import identity
from kd.core import json_lines
from kd.core import types
from kd.images import form as form_lib
from kd.input_pipeline import encoding
from kd.input_pipeline import image_rows
from kd.input_pipeline import packing
from kd.input_pipeline import shards
from kd.input_pipeline import tokenizers

ROWS, EXAMPLES, COUNTS = '.array_record', '.examples.jsonl', '.counts.json'
IMAGES = 'image_files'  # key in the counts
NAMED = 5  # maximum number of ids of dropped examples in the counts
_MOST_VALUES = 1000  # of a recorded field
_IN_ROWS, _LEFT_OUT = b', "in_rows": true}\n', b', "in_rows": false}\n'

_SUMS = ('examples', 'rows', 'tokens', 'target_weight', 'rationale_weight')


def write(
  folder: str,
  shard: shards.Shard,
  request: Mapping[str, Any],
  tokenizer: tokenizers.Tokenizer,
) -> dict[str, Any]:
  """Writes a shard's files, which only depend on the arguments.

  Args:
    folder: folder for the files.
    shard: the examples.
    request: see prepare.prepare.
    tokenizer: tokenizer of the texts.

  Returns:
    The content of the file of counts: the counts (see `total`), `data_sha256`
    (the digest of the shard's examples), the digests of both files, and IMAGES
    (see shards.Shard), if the examples name images.

  Raises:
    ConfigError: an example cannot be encoded.
  """
  examples, length = shard.examples(), request['length']
  encoded = _encode(examples, request, tokenizer, shard.number)
  form = form_lib.Form.of_request(request)
  rows, unplaced = packing.assign(
    [e.positions for e in encoded],
    length,
    request['pack'],
    [len(e.images) for e in encoded],
    form.per_row if form else 0,
  )
  used = [encoded[i] for row in rows for i in row]
  left_out = sorted({encoded[i].index for i in unplaced})
  missing = set(left_out)
  worked = sum(e.weights[e.parts == types.RATIONALE].sum() for e in used)
  counts = {
    'data_sha256': shard.digest,
    'examples': len(examples),
    'rows': len(rows),
    'tokens': sum(e.positions for e in used),
    'target_weight': float(sum(e.weights[1:].sum() for e in used)),
    'rationale_weight': float(worked),
    'too_long': len(left_out),
    'too_long_ids': [examples[i]['id'] for i in left_out[:NAMED]],
    'shortest': min(e.positions for e in encoded),
  }
  if form:
    counts['images'] = [
      sum(len(encoded[i].images) for i in row) for row in rows
    ]
  if shard.images:
    counts[IMAGES] = shard.images
  if 'field' in request:
    counts['field'] = _field(examples, encoded, rows, request['field'])
  stem = os.path.join(folder, shard.name)
  texts = [example.get('prefix') for example in examples]
  has_prefixes = 'teacher_prefix' in request
  records = (
    _record(
      [encoded[i] for i in row],
      length,
      tokenizer.pad_id,
      form,
      [texts[encoded[i].index] for i in row] if has_prefixes else None,
    )
    for row in rows
  )
  counts['rows_sha256'] = _write_rows(stem + ROWS, records)
  counts['rows_file_sha256'] = identity.file_digest(stem + ROWS)
  # The lines of json_lines.encode(example | {'in_rows': ...}), without encoding
  # each example again.
  lines = (
    line[:-1] + (_LEFT_OUT if i in missing else _IN_ROWS)
    for i, line in enumerate(shard.lines())
  )
  counts['examples_sha256'] = _write_lines(stem + EXAMPLES, lines)
  _write_lines(stem + COUNTS, [json_lines.encode(counts)])
  return counts


def _field(
  examples: Sequence[Mapping[str, Any]],
  encoded: Sequence[packing.Example],
  rows: Sequence[Sequence[int]],
  name: str,
) -> dict[str, Any]:
  """Returns a field's values and the index of each example's value, by row."""
  values = sorted({example['field'] for example in examples})
  if len(values) > _MOST_VALUES:
    raise errors.ConfigError(
      'teacher.field',
      f'found {name!r}, which has {len(values):,} values in a part of the data',
      legal=f'a field with at most {_MOST_VALUES:,} values',
    )
  number = {value: i for i, value in enumerate(values)}
  of_row = lambda row: [
    number[examples[encoded[i].index]['field']] for i in row
  ]
  return {'values': values, 'rows': [of_row(row) for row in rows]}


def _record(
  examples: Sequence[packing.Example],
  length: int,
  pad_id: int,
  form: form_lib.Form | None,
  texts: Sequence[str] | None,
) -> bytes:
  """Serializes a row."""
  fields = packing.to_bytes(packing.fill(examples, length, pad_id))
  if texts is not None:
    return packing.with_texts(fields, texts)
  if form is None:
    return fields
  return image_rows.to_bytes(fields, [x for e in examples for x in e.images])


def _encode(
  examples: Sequence[dict[str, Any]],
  request: Mapping[str, Any],
  tokenizer: tokenizers.Tokenizer,
  number: int,
) -> list[packing.Example]:
  """Returns the encoded examples in the order in which they are packed."""
  encoder = encoding.Encoder(
    tokenizer,
    request['template'],
    request['length'],
    request['long'],
    request['chunk_overlap'],
    form_lib.Form.of_request(request),
  )
  encoded = [
    part for i, e in enumerate(examples) for part in encoder.encode(e, i)
  ]
  order = np.arange(len(encoded))
  if request['pack']:
    # For shard 0 this is the same generator as from the seed itself.
    np.random.default_rng([request['seed'], number]).shuffle(order)
  return [encoded[i] for i in order]


def finished(folder: str, name: str, digest: str) -> dict[str, Any] | None:
  """Returns the counts of a complete shard, None if it is incomplete.

  Args:
    folder: folder of the shard's files.
    name: name of the shard.
    digest: digest of the shard's examples.
  """
  stem = os.path.join(folder, name)
  try:
    buckets.fetch(stem + COUNTS, check=False)
    with open(stem + COUNTS, 'rb') as f:
      counts = json.loads(f.read())
    if counts['data_sha256'] != digest:
      return None
    for kind in (ROWS, EXAMPLES):
      buckets.fetch(stem + kind, check=False)
    whole = (
      identity.file_digest(stem + ROWS) == counts['rows_file_sha256']
      and identity.file_digest(stem + EXAMPLES) == counts['examples_sha256']
    )
  except FileNotFoundError:
    return None
  return counts if whole else None


def upload(folder: str, name: str) -> None:
  """Uploads the files of a shard, if the folder is a copy of a bucket's."""
  for kind in (ROWS, EXAMPLES, COUNTS):
    buckets.upload_file(os.path.join(folder, name + kind))


def total(counts: Sequence[Mapping[str, Any]], length: int) -> dict[str, Any]:
  """Returns the counts of a task.

  Args:
    counts: the counts of the task's shards, see `write`.
    length: number of positions per row.

  Returns:
    `examples`, `rows`, `tokens` (positions with a target), `target_weight` and
    `rationale_weight` (sums of weights), `fill` (fraction of positions used),
    `too_long` (number of examples that do not fit into a row) and some of their
    ids, the digests of all rows and examples, and `shards`: for each, its rows
    and digests, the number of images by row if the request has images, and the
    result of `_field` if it has a field.
  """
  sums = {key: sum(c[key] for c in counts) for key in (*_SUMS, 'too_long')}
  named = [i for c in counts for i in c['too_long_ids']]
  kept = ['rows', 'rows_file_sha256', 'examples_sha256']
  kept += [key for key in ('images', 'field') if key in counts[0]]
  return {
    **sums,
    'too_long_ids': named[:NAMED],
    'fill': sums['tokens'] / max(sums['rows'] * length, 1),
    'rows_sha256': _joint([c['rows_sha256'] for c in counts]),
    'examples_sha256': _joint([c['examples_sha256'] for c in counts]),
    'shards': [{key: c[key] for key in kept} for c in counts],
  }


def _joint(digests: Sequence[str]) -> str:
  """Returns the digest of digests; a single digest is returned unchanged."""
  if len(digests) == 1:
    return digests[0]
  return hashlib.sha256(''.join(digests).encode()).hexdigest()


@contextlib.contextmanager
def _atomic_path(path: str) -> Iterator[str]:
  """Yields a unique path to write to; the written file then replaces `path`.

  Two processes may write the same shard, with the same bytes.
  """
  new = folders.new_name(os.path.dirname(path), '.new-')
  try:
    # Raises FileNotFoundError if the folder is gone, unlike other libraries.
    with open(new, 'xb'):
      pass
    yield new
    atomic_files.sync(new)
    os.replace(new, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(new)
    raise


def _write_rows(path: str, records: Iterable[bytes]) -> str:
  """Writes the records; returns the SHA-256 of their bytes in order."""
  digest = hashlib.sha256()
  with _atomic_path(path) as new:
    # One record per group, so that a read touches no other row.
    writer = array_record_module.ArrayRecordWriter(new, 'group_size:1')
    for record in records:
      digest.update(record)
      writer.write(record)
    writer.close()
  return digest.hexdigest()


def _write_lines(path: str, lines: Iterable[bytes]) -> str:
  """Writes a file; returns its SHA-256."""
  digest = hashlib.sha256()
  with _atomic_path(path) as new, open(new, 'wb') as f:
    for line in lines:
      digest.update(line)
      f.write(line)
  return digest.hexdigest()
