"""Prepares a task or mixture once: tokenized, packed, in ArrayRecord files."""

from collections.abc import Callable, Iterator, Sequence
import hashlib
import json
import os
import shutil
from typing import Any

from absl import logging
from array_record.python import array_record_module
import numpy as np

from kd.core import errors
from kd.core import paths
from kd.core import run_info
from kd.core import types
from kd.input_pipeline import abandoned
from kd.input_pipeline import examples as examples_lib
from kd.input_pipeline import fingerprints
from kd.input_pipeline import packing
from kd.input_pipeline import prepared
from kd.input_pipeline import reading
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers

Prepared = prepared.Prepared  # What `prepare` returns parts as.

FORMAT = 2  # Raise it when what is written changes its meaning.


def prepare(
  name: str,
  split: str,
  *,
  tokenizer: tokenizers.Tokenizer,
  template: str,
  length: int,
  pack: bool,
  seed: int,
  cache_dir: str,
  limit: int,
  module: str,
  patience: reading.Patience,
  say: Callable[[str], None] = logging.info,
) -> list[prepared.Prepared]:
  """Returns the rows of a task or mixture, preparing them if none has yet.

  What is found under `cache_dir` is reused without importing TensorFlow. Files
  are written in a folder of their own that is renamed when all are there, so
  processes may prepare the same rows at the same time.

  Args:
    name: a seqio task or mixture that `module` registers.
    split: its split.
    tokenizer: gives the ids.
    template: 'plain' or 'gemma'.
    length: positions of a row, L.
    pack: whether rows hold several examples; these are shuffled by `seed`
      before, or they keep the file's order.
    seed: of that shuffle.
    cache_dir: the folder of all prepared rows.
    limit: uses the first so many examples of each task; -1 for all.
    module: the Python module to import, 'data.mixtures'.
    patience: with a source that cannot be read.
    say: called with lines of progress.

  Returns:
    One part for each task, in the order of their names.

  Raises:
    ConfigError: an unknown name or split, data that is missing, wrong, empty or
      longer than every row, or a prepared folder that is damaged.
  """
  templates.check_tokenizer(tokenizer, template)
  if length < 1:
    raise errors.ConfigError('data.length', str(length), legal='1 or more')
  if limit == 0 or limit < -1:
    raise errors.ConfigError(
      'data.examples', str(limit), legal='1 or more, or -1 for all'
    )
  request = {
    'format': FORMAT,
    'name': name,
    'split': split,
    'template': template,
    'length': length,
    'pack': pack,
    'seed': seed if pack else None,
    'limit': limit,
    'module': module,
    'tokenizer': tokenizer.digest,
    'pad_bos_eos': [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id],
    'source': fingerprints.of_module(module),
  }
  digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode())
  cache_dir = paths.expand(cache_dir)
  folder = os.path.join(cache_dir, f'{name}-{split}-{digest.hexdigest()[:16]}')
  if not os.path.isdir(folder):
    say(f'preparing rows of {name} ({split}) in {folder}')
    _write(folder, request, tokenizer, patience, say)
  return prepared.open_folder(folder, request, tokenizer.pad_id, patience)


def _write(
  folder: str,
  request: dict[str, Any],
  tokenizer: tokenizers.Tokenizer,
  patience: reading.Patience,
  say: Callable[[str], None],
) -> None:
  """Writes a whole folder aside, then renames it."""
  parent = os.path.dirname(folder)
  with errors.refused_unless_writable(
    'data.folder',
    parent,
    'a folder that this user can write, or one with these rows',
  ):
    os.makedirs(parent, exist_ok=True)
    abandoned.remove(parent)
    aside, held = abandoned.make(parent)
  try:
    parts = []
    wanted = request['name'], request['split'], request['module']
    for task, rate in examples_lib.tasks(*wanted):
      examples = patience.read(
        f'task {task.name!r}, split {request["split"]!r}',
        lambda task=task: examples_lib.read(
          task, request['split'], request['limit'], say
        ),
      )
      parts.append(
        {'task': task.name, 'rate': rate}
        | _write_part(aside, task.name, examples, request, tokenizer, say)
      )
    _write_file(
      os.path.join(aside, prepared.MANIFEST),
      json.dumps({'request': request, 'parts': parts}, indent=2),
    )
    run_info.sync(aside)
    try:
      os.rename(aside, folder)
    except OSError:
      if not os.path.isdir(folder):
        raise
      say(f'another process has prepared {folder} meanwhile')
    run_info.sync(os.path.dirname(folder))
  finally:
    shutil.rmtree(aside, ignore_errors=True)
    os.close(held)


def _write_part(
  folder: str,
  name: str,
  examples: list[dict[str, str]],
  request: dict[str, Any],
  tokenizer: tokenizers.Tokenizer,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """Writes one task's rows and examples; returns what the manifest says."""
  encoded = list(_encode(name, examples, request, tokenizer, say))
  order = np.arange(len(encoded))
  if request['pack']:
    np.random.default_rng(request['seed']).shuffle(order)
  encoded = [encoded[i] for i in order]
  length = request['length']
  rows, too_long = packing.assign(
    [e.positions for e in encoded], length, request['pack']
  )
  left_out = sorted(encoded[i].index for i in too_long)
  if not rows:
    shortest = min(e.positions for e in encoded)
    raise errors.ConfigError(
      'data.length',
      f'{length} is too short for every example of {name!r}',
      legal=f'{shortest} or more',
    )
  if left_out:
    say(
      f'{name}: {len(left_out)} of {len(examples)} examples need more than '
      f'{length} positions and are left out'
    )
  digest = _write_rows(
    os.path.join(folder, f'{name}.array_record'),
    rows,
    encoded,
    length,
    tokenizer.pad_id,
  )
  missing = set(left_out)
  text = ''.join(
    json.dumps(e | {'in_rows': i not in missing}, ensure_ascii=False) + '\n'
    for i, e in enumerate(examples)
  )
  _write_file(os.path.join(folder, f'{name}.examples.jsonl'), text)
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
    'too_long': [examples[i]['id'] for i in left_out],
    'rows_sha256': digest,
    'examples_sha256': hashlib.sha256(text.encode()).hexdigest(),
  }


def _encode(
  name: str,
  examples: Sequence[dict[str, str]],
  request: dict[str, Any],
  tokenizer: tokenizers.Tokenizer,
  say: Callable[[str], None],
) -> Iterator[packing.Example]:
  for i, example in enumerate(examples):
    texts = (example[field] for field in ('inputs', 'targets', 'rationale'))
    ids, parts, weights = templates.encode(
      tokenizer, request['template'], templates.exchange(*texts)
    )
    yield packing.Example(
      np.asarray(ids, np.int32),
      np.asarray(parts, np.int32),
      np.asarray(weights, np.float32),
      i,
    )
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
  run_info.sync(path)
  return digest.hexdigest()


def _write_file(path: str, text: str) -> None:
  with open(path, 'w', encoding='utf-8') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
