"""Writes the rows and examples of one task."""

from collections.abc import Callable, Iterator, Sequence
import hashlib
import os
from typing import Any

from array_record.python import array_record_module
import numpy as np

from kd.core import atomic_files
from kd.core import errors
from kd.core import identity
from kd.core import json_lines
from kd.core import types
from kd.input_pipeline import encoding
from kd.input_pipeline import examples as examples_lib
from kd.input_pipeline import packing
from kd.input_pipeline import tokenizers

_NAMED = 5  # examples that are left out, in a line for the user


def write(
  folder: str,
  name: str,
  examples: list[dict[str, Any]],
  request: dict[str, Any],
  tokenizer: tokenizers.Tokenizer,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """Writes one task's rows and examples.

  Args:
    folder: where the files go.
    name: the task's name.
    examples: as examples.stream yields them.
    request: see prepare.prepare.
    tokenizer: encodes the texts.
    say: prints lines of progress.

  Returns:
    The counts that the manifest records, see prepared.Prepared.

  Raises:
    ConfigError: every example is longer than a row.
  """
  encoded = list(_encode(name, examples, request, tokenizer, say))
  order = np.arange(len(encoded))
  if request['pack']:
    np.random.default_rng(request['seed']).shuffle(order)
  encoded = [encoded[i] for i in order]
  length = request['length']
  rows, unplaced = packing.assign(
    [e.positions for e in encoded], length, request['pack']
  )
  left_out = sorted(encoded[i].index for i in unplaced)
  if not rows:
    shortest = min(e.positions for e in encoded)
    raise errors.ConfigError(
      'data.length',
      f'{length} is too short for every example of {name!r}',
      legal=f'{shortest} or more',
    )
  too_long = [examples[i]['id'] for i in left_out]
  if left_out:
    more = ', ...' if len(too_long) > _NAMED else ''
    say(
      f'{name}: {len(left_out)} of {len(examples)} examples need more than '
      f'{length} positions and are left out: '
      f'{", ".join(too_long[:_NAMED])}{more}'
    )
  rows_file = os.path.join(folder, f'{name}.array_record')
  digest = _write_rows(rows_file, rows, encoded, length, tokenizer.pad_id)
  missing = set(left_out)
  data = json_lines.write(
    os.path.join(folder, f'{name}.examples.jsonl'),
    (e | {'in_rows': i not in missing} for i, e in enumerate(examples)),
  )
  used = [encoded[i] for row in rows for i in row]
  tokens = sum(e.positions for e in used)
  worked = sum(e.weights[e.parts == types.RATIONALE].sum() for e in used)
  return {
    'examples': len(examples),
    'rows': len(rows),
    'tokens': tokens,
    'target_weight': float(sum(e.weights[1:].sum() for e in used)),
    'rationale_weight': float(worked),
    'fill': tokens / (len(rows) * length),
    'too_long': too_long,
    'rows_sha256': digest,
    'rows_file_sha256': identity.file_digest(rows_file),
    'examples_sha256': hashlib.sha256(data).hexdigest(),
  }


def _encode(
  name: str,
  examples: Sequence[dict[str, Any]],
  request: dict[str, Any],
  tokenizer: tokenizers.Tokenizer,
  say: Callable[[str], None],
) -> Iterator[packing.Example]:
  encoder = encoding.Encoder(
    tokenizer,
    request['template'],
    request['length'],
    request['long'],
    request['chunk_overlap'],
  )
  for i, example in enumerate(examples):
    yield from encoder.encode(example, i)
    if (i + 1) % examples_lib.EVERY == 0:
      say(f'{name}: {i + 1} of {len(examples)} examples tokenized')


def _write_rows(
  path: str,
  rows: list[list[int]],
  encoded: Sequence[packing.Example],
  length: int,
  pad_id: int,
) -> str:
  """Writes the records; returns the sha256 of their bytes in order."""
  digest = hashlib.sha256()
  # One record a group, so that a read touches no other row.
  writer = array_record_module.ArrayRecordWriter(path, 'group_size:1')
  for row in rows:
    record = packing.to_bytes(
      packing.fill([encoded[i] for i in row], length, pad_id)
    )
    digest.update(record)
    writer.write(record)
  writer.close()
  atomic_files.sync(path)
  return digest.hexdigest()
