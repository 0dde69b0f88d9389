"""Registers tasks of solutions that --mode=reason sampled and checked.

`$KD_TRACES` is its traces.jsonl. One problem in ten is held out for validation.

  traces_cot        question: worked steps and answer
  traces_answer     question: only the answer
  traces_rationale  '[rationale] ' and question: only the worked steps
  traces_label      '[label] ' and question: only the answer

The last two are the tasks of step-by-step distillation (arXiv 2305.02301); the
mixture step_by_step_v1 draws from both.
"""

import functools

from kd.core import errors
from kd.core import json_files
from kd.data import sources
from kd.data import tasks
from kd.data_files import json_rows
from kd.input_pipeline import arithmetic
from kd.reasoning.arithmetic import answers

# Files that the tasks read; prepared rows are reused until one changes.
DATA_FILES = {'traces_*': ('$KD_TRACES',)}
_FIELDS = ('id', 'inputs', 'targets', 'rationale', 'answer')
_LEGAL = f'a JSON object with {", ".join(_FIELDS)}'
# Prefixes of the question, which select the kind of answer.
PREFIXES = {
  'traces_cot': '',
  'traces_answer': '',
  'traces_rationale': '[rationale] ',
  'traces_label': '[label] ',
}


def _row(name, trace):
  """Returns a task's example for a trace."""
  label = f'{answers.MARKER} {trace["answer"]}'
  targets, rationale = {
    'traces_cot': (trace['targets'], trace['rationale']),
    'traces_rationale': (trace['rationale'], trace['rationale']),
  }.get(name, (label, ''))
  return {
    'id': trace['id'],
    'inputs': PREFIXES[name] + trace['inputs'],
    'targets': targets,
    'rationale': rationale,
  }


def _read(split, *, name):
  path = sources.traces()
  if path is None:
    raise errors.ConfigError(
      'KD_TRACES',
      'is not set, or there is no such file',
      legal='path of a traces.jsonl written by --mode=reason',
    )
  seen = set()
  for where, value in json_rows.read(path, legal=_LEGAL):
    trace = _check(value, where)
    if arithmetic.split_of(trace['inputs']) != split:
      continue
    row = _row(name, trace)
    # All solutions of a problem have the same answer: keep its label once.
    key = tuple(text for field, text in row.items() if field != 'id')
    if key not in seen:
      seen.add(key)
      yield row


def _check(value, where):
  """Returns the texts of a line by field; raises ConfigError if invalid."""
  trace = json_files.texts(value, where, _LEGAL, _FIELDS)
  answer = answers.extract(f'{answers.MARKER} {trace["answer"]}')
  # A branch of a search tree is one step of a solution, without an answer.
  if trace['answer'] and answer.value is None:
    raise errors.ConfigError(
      where, f'answer is {trace["answer"][:60]!r}: {answer.reason}'
    )
  return trace


for _name in PREFIXES:
  tasks.add(
    _name,
    functools.partial(_read, name=_name),
    splits=arithmetic.SPLITS,
    has_answers=_name != 'traces_rationale',
  )
