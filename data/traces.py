"""Tasks of solutions that --mode=reason sampled, checked and wrote.

`$KD_TRACES` is its traces.jsonl. One problem in ten is held out for validation.

  traces_cot        question: worked steps and answer
  traces_answer     question: the answer alone
  traces_rationale  '[rationale] ' and question: the worked steps alone
  traces_label      '[label] ' and question: the answer alone

The last two are the tasks of step-by-step distillation (arXiv 2305.02301); the
mixture step_by_step_v1 draws from both.
"""

import functools
import json

import seqio

from data import sources
from data import tasks
from kd.core import errors
from kd.input_pipeline import arithmetic
from kd.reasoning import answers

_FIELDS = ('id', 'inputs', 'targets', 'rationale', 'answer')
# What asks for one of the two kinds of answer.
PREFIXES = {
  'traces_cot': '',
  'traces_answer': '',
  'traces_rationale': '[rationale] ',
  'traces_label': '[label] ',
}


def _row(name, trace):
  """The task's (id, inputs, targets, rationale) of a trace."""
  inputs = PREFIXES[name] + trace['inputs']
  label = f'{answers.MARKER} {trace["answer"]}'
  targets, rationale = {
    'traces_cot': (trace['targets'], trace['rationale']),
    'traces_rationale': (trace['rationale'], trace['rationale']),
  }.get(name, (label, ''))
  return trace['id'], inputs, targets, rationale


def _read(split, shuffle_files, *, name):
  del shuffle_files
  path = sources.traces()
  if path is None:
    raise errors.ConfigError(
      'KD_TRACES',
      'is not set, or there is no such file',
      legal='the traces.jsonl that --mode=reason wrote',
    )
  rows, seen = [], set()
  with open(path, encoding='utf-8') as f:
    for number, line in enumerate(f, 1):
      trace = _parse(line, f'{path}, line {number}')
      if arithmetic.split_of(trace['inputs']) != split:
        continue
      row = _row(name, trace)
      # Solutions of one problem have one answer: its label is learnt once.
      if row[1:] not in seen:
        seen.add(row[1:])
        rows.append(row)
  return tasks.dataset(rows)


def _parse(line, where):
  try:
    trace = json.loads(line)
    texts = {name: trace[name] for name in _FIELDS}
  except (ValueError, KeyError, TypeError) as e:
    raise errors.ConfigError(
      where,
      f'{type(e).__name__}: {e}',
      legal=f'a JSON object with {", ".join(_FIELDS)}',
    ) from e
  for name, text in texts.items():
    if not isinstance(text, str):
      raise errors.ConfigError(where, f'{name} is {text!r}', legal='text')
  return texts


for _name in PREFIXES:
  seqio.TaskRegistry.add(
    _name,
    source=seqio.FunctionDataSource(
      functools.partial(_read, name=_name),
      splits=arithmetic.SPLITS,
      caching_permitted=False,
    ),
    preprocessors=[],
    output_features=tasks.FEATURES,
    postprocess_fn=tasks.read_answer,
    # A rationale has no answer to compare.
    metric_fns=[] if _name == 'traces_rationale' else [tasks.exact_match],
    shuffle_buffer_size=None,
  )
