"""Reads a run's evaluations for its page: tables, intervals, answers."""

from collections.abc import Mapping
import functools
import os
from typing import Any

from kd.board import answer_tokens
from kd.board import run_files
from kd.evaluation import intervals
from kd.evaluation import measures
from kd.evaluation import results
from kd.evaluation import table
from kd.images import thumbnails
from kd.run import outputs
from kd.train import curves
from kd.train import early_stop
from kd.train import report

# Errors that values in a damaged file may cause in the report's code.
_DAMAGED = (
  *(ValueError, KeyError, TypeError, IndexError, AttributeError),
  *(ZeroDivisionError, OverflowError),
)


def tables(files: run_files.RunFiles) -> list[dict[str, Any]]:
  """Returns the table of each held-out set, as in the report.

  For an unfinished run, it shows the student's last evaluation.

  Returns:
    By set: name, title, columns, rows of cells (value, low, high), notes. A set
    that cannot be read has its name and `problem`.
  """
  return _tables(files.folder, _state(files.folder))


@functools.lru_cache(maxsize=64)
def _tables(folder, state):
  columns = _columns(folder)
  del state  # Part of the cache key: changed files are read again.
  shown = []
  for name in _sets(columns):
    try:
      shown.append(_table(columns, name))
    except _DAMAGED as e:
      problem = f'the evaluations of {name} are damaged: {type(e).__name__}'
      shown.append({'name': name, 'problem': problem})
  return shown


def _sets(columns):
  return sorted({name for result in columns.values() for name in result.scores})


def _table(columns, name):
  of_set = {t: r for t, r in columns.items() if name in r.scores}
  rendered = report.set_table(of_set, name)
  sizes = measures.counts(next(reversed(of_set.values())), name)
  counted = ', '.join(f'{n:,} {k.replace("_", " ")}' for k, n in sizes.items())
  return {
    'name': name,
    'title': counted,
    'columns': list(rendered.columns),
    'rows': [
      {'name': row.name, 'cells': [_cell(c) for c in row.cells]}
      for row in rendered.rows
    ],
    'notes': list(rendered.notes),
  }


def _cell(cell: table.Cell):
  if isinstance(cell, intervals.Interval):
    return {'value': cell.value, 'low': cell.low, 'high': cell.high}
  return {'value': cell}


def count(files: run_files.RunFiles) -> int:
  """Returns the number of evaluation files, readable or not."""
  return sum(path.endswith('.json') for path, _, _ in _state(files.folder))


def answers(files: run_files.RunFiles, set_name: str) -> dict[str, Any]:
  """Returns the answers of all models to the examples of a set.

  Returns:
    examples: for each example: task, id, prompt, images (thumbnails as data
      URIs), reference, and `models`. That has, by title: answer, verdict,
      finish, tokens (see answer_tokens.of), and kl, the divergence from the
      teacher on the reference in nats per token; None if the example was not
      scored.
    uncolored: why no answer has the KL of its tokens; '' if one has.
  """
  return _answers(files.folder, set_name, _state(files.folder))


@functools.lru_cache(maxsize=16)
def _answers(folder, set_name, state):
  del state
  examples: dict[tuple[str, str], dict[str, Any]] = {}
  columns = _columns(folder)
  for title, result in columns.items():
    records = [r for r in result.answers if r.get('set') == set_name]
    distances = _distances(result, set_name, records)
    for record, distance in zip(records, distances, strict=True):
      key = str(record.get('task')), str(record.get('id'))
      example = examples.setdefault(
        key,
        {
          'task': key[0],
          'id': key[1],
          'prompt': str(record.get('prompt', '')),
          'images': _images(record),
          'reference': str(record.get('reference', '')),
          'models': {},
        },
      )
      example['models'][title] = {
        'answer': str(record.get('answer', '')),
        'verdict': record.get('verdict'),
        'finish': record.get('finish'),
        'tokens': answer_tokens.of(record),
        'kl': distance,
      }
  return {
    'examples': list(examples.values()),
    'uncolored': _uncolored(columns, examples.values(), set_name),
  }


def _uncolored(columns, examples, set_name) -> str:
  if any(m['tokens'] for e in examples for m in e['models'].values()):
    return ''
  students = [r for title, r in columns.items() if title != report.TEACHER]
  if any(measures.KL in r.scores.get(set_name, {}) for r in students):
    return (
      'Tokens have no color: evaluation.token_kl was 0, or an earlier version '
      'of kd evaluated this run.'
    )
  return (
    'Tokens have no color: no live teacher with the same input as the student '
    'evaluated this run.'
  )


def _images(record) -> list[str]:
  images = record.get('images')
  if not isinstance(images, list):
    return []
  # The page may load only data URIs.
  return [x for x in images if str(x).startswith(thumbnails.PREFIX)]


def _distances(result, set_name, records) -> list[float | None]:
  """Returns the KL to the teacher on each answered example.

  Examples of one task are scored in the order of the answers, except for those
  that are too long. For several tasks, the files do not map scores to examples.
  """
  columns = result.scores.get(set_name, {})
  kls, weights = columns.get(measures.KL, []), columns.get('weight', [])
  # Files of earlier versions lack in_rows.
  flags = [r.get('in_rows') for r in records]
  one_task = len({r.get('task') for r in records}) == 1
  known = one_task and None not in flags and len(weights) == len(kls)
  if not known or len(kls) < sum(map(bool, flags)):
    return [None] * len(records)
  pairs = iter(zip(kls, weights, strict=True))
  scored = (next(pairs) if flag else (None, 0) for flag in flags)
  return [
    kl / weight if kl is not None and weight else None for kl, weight in scored
  ]


def _columns(folder: str) -> Mapping[str, results.Result]:
  """Returns the last evaluation of each model by title, as in the report."""
  ends = {'student': _last(folder)}
  baseline = os.path.join(folder, outputs.BASELINE)
  if os.path.isdir(os.path.join(baseline, outputs.EVALUATIONS)):
    ends[outputs.BASELINE] = _last(baseline)
  columns = report.columns(folder, ends)
  if ends['student'].step == 0:
    columns.pop(report.AFTER, None)  # This is the student before training.
  return columns


def _last(folder):
  steps = [0]
  try:
    names = os.listdir(os.path.join(folder, outputs.EVALUATIONS))
  except OSError:
    names = []
  for name in names:
    step = curves.step_of(name)
    if step is not None:
      steps.append(step)
  return early_stop.End(max(steps), '')


def _state(folder):
  """Returns paths, sizes and modification times of the evaluation files."""
  state = []
  for parent in (folder, os.path.join(folder, outputs.BASELINE)):
    where = os.path.join(parent, outputs.EVALUATIONS)
    try:
      with os.scandir(where) as entries:
        for entry in entries:
          stat = entry.stat()
          state.append((entry.path, stat.st_size, stat.st_mtime_ns))
    except OSError:
      continue
  return tuple(sorted(state))
