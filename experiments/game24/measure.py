"""Counts the hardest 100 puzzles that the students of experiments/game24 solve.

  python -m experiments.game24.measure RUNS

RUNS contains their workdirs: trace-0, answer-0, trace-1 and so on. Each
measurement is appended to RUNS/measures.jsonl and not repeated. After each,
results.json and result.png are written to this file's folder. Without RUNS the
picture is redrawn from results.json.
"""

import glob
import json
import os
import sys

import jax
import matplotlib
import numpy as np

from experiments.game24 import guessing
from experiments.game24 import students
from kd.core import atomic_files
from kd.input_pipeline import templates
from kd.modes import search as search_mode
from kd.reasoning.trees import game24_answers
from kd.reasoning.trees import problems
from kd.run import outputs
from kd.run import resolve
from kd.run import samplers
from kd.sampling import requests

SOURCE = problems.SOURCES['game24']
# Number of whole answers per puzzle for the verifier. A search has at most
# (1 + 5 + 5) x 8 = 88 calls of one line each. Bare answers match its calls,
# answers with steps its tokens.
SAMPLES = {'answer': 88, 'trace': 24}
ONCE, SAMPLED, SEARCHED = 'greedy', 'sampled, verified', 'search'
RANDOM = 'random'  # In results.json: expected solutions by guesses per puzzle.
_FOLDER = os.path.dirname(os.path.abspath(__file__))


def _config(kind, workdir):
  config = students.config(kind)
  config.student.init = f'workdir:{workdir}'
  return config


def _ask(run, puzzles, samples, temperature):
  """Returns the sampled answers of each puzzle."""
  params = outputs.student_params(run, '/nowhere')
  asked = [
    requests.Request(
      tuple(
        templates.encode_prompt(
          run.tokenizer,
          run.config.data.template,
          templates.exchange(SOURCE.problem.inputs(puzzle)),
        )
      ),
      seed=i,
      samples=samples,
    )
    for i, puzzle in enumerate(puzzles)
  ]
  settings = requests.SamplingSettings(temperature, 0, 1.0, 0.0, 1.0, 128, ())
  return samplers.make(run, run.student, params)(asked, settings)


def _verified(puzzles, answers):
  """Returns the counts of whole answers that the exact verifier checked."""
  verdicts = [
    [game24_answers.check(puzzle.question, sample.text) for sample in samples]
    for puzzle, samples in zip(puzzles, answers, strict=True)
  ]
  reasons = {}
  for verdict in (v for each in verdicts for v in each):
    reasons[verdict.reason] = reasons.get(verdict.reason, 0) + 1
  return {
    'solved': sum(any(v.right for v in each) for each in verdicts),
    'calls': sum(map(len, answers)),
    'new_tokens': sum(len(s.ids) + 1 for each in answers for s in each),
    'verdicts': reasons,
  }


def measure(kind, workdir, way):
  """Returns the counts of one student, answering in one `way`."""
  config = _config(kind, workdir)
  if way == SEARCHED:
    search_mode.main(config, f'{workdir}-search')
    path = os.path.join(f'{workdir}-search', 'search', search_mode.SUMMARY)
    with open(path, encoding='utf-8') as f:
      return json.load(f)
  run = resolve.resolve(config, jax.devices())
  puzzles = _puzzles()
  samples, temperature = (1, 0.0) if way == ONCE else (SAMPLES[kind], 1.0)
  return _verified(puzzles, _ask(run, puzzles, samples, temperature))


def _puzzles():
  first = students.PUZZLES - students.HARDEST
  return problems.instances(SOURCE, '', first, students.HARDEST)


def _bars(results):
  """Yields (kind, way, measurements of the seeds, mean calls per puzzle)."""
  for kind, seeds in sorted(results.items()):
    for way in (ONCE, SAMPLED, SEARCHED):
      measured = [each[way] for each in seeds.values() if way in each]
      if measured:
        calls = np.mean([m['calls'] for m in measured]) / students.HARDEST
        yield kind, way, measured, float(calls)


def baseline(results):
  """Returns the expected solutions of random guesses, by calls per puzzle."""
  puzzles = [puzzle.question for puzzle in _puzzles()]
  calls = sorted({calls for *_, calls in _bars(results)})
  return {f'{n:.0f}': guessing.expected(puzzles, n) for n in calls}


def draw(results, random, path):
  """Draws solved puzzles by kind and way, a dot for each seed.

  Args:
    results: measurements by kind, seed and way.
    random: the result of `baseline`, drawn as dashed lines across the bars.
    path: path of the PNG file.
  """
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axis = pyplot.subplots(figsize=(6.8, 3.8), layout='constrained')
  colors = {'answer': 'tab:orange', 'trace': 'tab:blue'}
  names = []
  for x, (kind, way, measured, calls) in enumerate(_bars(results)):
    values = [m['solved'] for m in measured]
    expected = random[f'{calls:.0f}']
    names.append(f'{kind}s\n{way}\n{calls:.0f} call{"s" * (calls > 1)}')
    axis.bar(x, np.mean(values), color=colors[kind], width=0.6)
    axis.hlines(
      expected,
      *(x - 0.38, x + 0.38, 'black', 'dashed'),
      label='' if x else 'as many random expressions (expected)',
    )
    axis.plot(
      *([x] * len(values), values, 'k.'),
      label='' if x else 'each seed',
      clip_on=False,
    )
  axis.legend(frameon=False, fontsize=8)
  axis.set_xticks(range(len(names)), names, fontsize=8)
  axis.set_ylabel(f'solved of the hardest {students.HARDEST}')
  axis.set_ylim(0)
  atomic_files.write_picture(path, figure, dpi=110)


def _write(results):
  random = baseline(results)
  atomic_files.write_json(
    os.path.join(_FOLDER, 'results.json'), {**results, RANDOM: random}
  )
  draw(results, random, os.path.join(_FOLDER, 'result.png'))


def main(runs=None):
  if runs is None:
    with open(os.path.join(_FOLDER, 'results.json'), encoding='utf-8') as f:
      results = json.load(f)
    results.pop(RANDOM, None)
    _write(results)
    return
  path = os.path.join(runs, 'measures.jsonl')
  results = {}
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      for record in map(json.loads, f):
        _add(results, record)
  finished = sorted(
    os.path.basename(os.path.dirname(report))
    for report in glob.glob(os.path.join(runs, '*-[0-9]', 'report.md'))
  )
  for way in (ONCE, SEARCHED, SAMPLED):
    for name in finished:
      kind, _, seed = name.partition('-')
      known = way in results.get(kind, {}).get(seed, {})
      # A student of bare answers was not trained on steps to search over.
      if known or (kind, way) == ('answer', SEARCHED):
        continue
      measured = measure(kind, os.path.join(runs, name), way)
      record = {'kind': kind, 'seed': seed, 'way': way, 'found': measured}
      with open(path, 'a', encoding='utf-8') as f:
        f.write(json.dumps(record) + '\n')
      _add(results, record)
      _write(results)


def _add(results, record):
  seeds = results.setdefault(record['kind'], {})
  seeds.setdefault(record['seed'], {})[record['way']] = record['found']


if __name__ == '__main__':
  main(*sys.argv[1:])
