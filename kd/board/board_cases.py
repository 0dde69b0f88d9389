"""Writes workdirs like those of runs, for tests."""

import copy
import json
import pathlib

from kd.config import base
from kd.core import config as config_lib
from kd.evaluation import results
from kd.metrics import metric


def config(**changes):
  """Returns the fields of a config as in config.json.

  Args:
    **changes: new values by dotted path, with __ for each dot.
  """
  fields = json.loads(config_lib.to_json(base.get_config()))
  for path, value in changes.items():
    *parents, name = path.split('__')
    part = fields
    for parent in parents:
      part = part[parent]
    assert name in part, path
    part[name] = value
  return fields


_DEFAULT = config(steps=100, evaluation__baseline=True)


def write(folder, fields=None, steps=100, scale=1.0, ended=True, every=5):
  """Writes a run and returns its folder.

  Args:
    folder: the workdir.
    fields: fields of the config.
    steps: the last step.
    scale: factor of the losses.
    ended: whether the run has finished.
    every: steps between two lines of metrics.
  """
  folder = pathlib.Path(folder)
  fields = copy.deepcopy(fields or _DEFAULT)
  (folder / 'baseline').mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(fields))
  run = {'inputs': {}, 'changes': [], 'command': ['kd', 'train']}
  if ended:
    end = {'step': steps, 'reason': ''}
    run['ends'] = {'student': end, 'baseline': end}
  (folder / 'run.json').write_text(json.dumps(run))
  lines = [
    line for s in range(every, steps + 1, every) for line in at(s, scale)
  ]
  (folder / 'metrics.jsonl').write_text(''.join(lines))
  worse = [
    x for s in range(every, steps + 1, every) for x in at(s, scale * 1.2)
  ]
  (folder / 'baseline' / 'metrics.jsonl').write_text(''.join(worse))
  return folder


def at(step, scale=1.0):
  """Returns the lines of metrics for a step."""
  loss = scale * (0.5 + 4 / (1 + step / 10))
  train = {
    'train/loss': loss,
    'train/loss/kl': loss,
    'train/grad_norm': 1 / (1 + step / 50),
    'train/lr': 1e-3 * (1 - step / 200),
    'perf/step_time_s': 0.5,
    'perf/tokens_per_s': 2000.0 + step,
  }
  lines = [{'step': step, 'phase': 'train', **train}]
  if step % 25 == 0:
    held_out = {
      'eval/held_out/nll': loss + 0.1,
      'eval/held_out/kl': loss,
      'eval/held_out/exact_match': 1 - loss / 5,
    }
    lines.append({'step': step, 'phase': 'eval', **held_out})
  return [json.dumps(line) + '\n' for line in lines]


def evaluate(folder, name, nll, right, number=24, too_long=(), colored=0):
  """Writes an evaluation and returns the path of its file.

  Args:
    folder: parent of the folder `evaluations`.
    name: name of the record.
    nll: mean over the examples, in nats per token.
    right: number of right answers.
    number: number of examples, all of which are answered.
    too_long: indices of the examples that are not scored.
    colored: number of answers with the KL of their tokens.
  """
  weights = [20.0 + i % 5 for i in range(number)]
  spread = [(i * 7 % number) / number - 0.5 for i in range(number)]
  nlls = [w * nll * (1 + 0.5 * x) for w, x in zip(weights, spread, strict=True)]
  kls = [0.9 * x for x in nlls]
  match = [float(i < right) for i in range(number)]
  answers = [
    {
      'set': 'held_out',
      'task': 'arithmetic',
      'id': f'example-{i}',
      'prompt': f'Q: {i}+{i + 7}-3=?\nA:\n',
      'reference': f'{i}+{i + 7}={2 * i + 7} #### {2 * i + 4}',
      'answer': f'{i}+{i + 7}={2 * i + 7} #### {2 * i + 4 + (i >= right)}',
      'verdict': 'right' if i < right else 'wrong',
      'scores': {'exact_match': match[i]},
      'finish': 'stop',
      'tokens': 18,
      'in_rows': i not in too_long,
    }
    for i in range(number)
  ]
  for answer in answers[:colored]:
    answer |= _tokens(answer['answer'], answer['verdict'] == 'wrong')
  kept = [i for i in range(number) if i not in too_long]
  weights, nlls, kls = ([x[i] for i in kept] for x in (weights, nlls, kls))
  total = sum(weights)
  values = {
    'nll': sum(nlls) / total,
    'kl': sum(kls) / total,
    'exact_match': right / number,
  }
  path = str(pathlib.Path(folder) / 'evaluations' / f'{name}.json')
  about = metric.Description('exact match')
  results.write(
    path,
    results.Result(
      {f'eval/held_out/{k}': v for k, v in values.items()},
      {
        'held_out': {
          'weight': weights,
          'nll': nlls,
          'kl': kls,
          'exact_match': match,
        }
      },
      answers,
      {'held_out': {'exact_match': about}},
    ),
  )
  return path


def _tokens(answer, is_wrong):
  """Returns the fields of tokens of at most two characters and a stop id."""
  ends = [*range(2, len(answer), 2), len(answer), len(answer)]
  kls = [round(0.001 + 0.02 * (i % 3), 4) for i in range(len(ends))]
  kls[5] = 0.4
  kls[-2:] = [2.5, 1.25] if is_wrong else kls[-2:]
  return {'token_kl': kls, 'token_ends': ends}
