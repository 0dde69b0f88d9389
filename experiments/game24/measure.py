"""What the students of experiments/game24 solve of the hardest 100 puzzles.

  python -m experiments.game24.measure RUNS

RUNS holds their workdirs, trace-0, answer-0, trace-1 and so on. Each measure of
each student goes to RUNS/measures.jsonl as soon as it is known, and is not
taken again; after each of them results.json and result.png are written beside
this file, of what is known so far.
"""

import glob
import json
import os
import sys

import jax
import matplotlib
import numpy as np

from experiments.game24 import students
from kd.core import run_info
from kd.input_pipeline import templates
from kd.reasoning import game24_answers
from kd.reasoning import problems
from kd.sampling import requests
from kd.train import modes
from kd.train import outputs
from kd.train import resolve
from kd.train import samplers
from kd.train import search

SOURCE = problems.SOURCES['game24']
# Whole answers to a puzzle for the verifier. A search has at most
# (1 + 5 + 5) x 8 calls of one line each: as many bare answers, and of answers
# with their steps those that take as many tokens.
SAMPLES = {'answer': 88, 'trace': 24}
ONCE, SAMPLED, SEARCHED = 'greedy', 'sampled, verified', 'search'


def _config(kind, workdir):
  config = students.config(kind)
  config.student.init = f'workdir:{workdir}'
  return config


def _ask(run, puzzles, samples, temperature):
  """By puzzle: the samples of whole answers."""
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
  settings = requests.Settings(temperature, 0, 1.0, 0.0, 1.0, 128, ())
  return samplers.make(run, run.student, params)(asked, settings)


def _verified(puzzles, answers):
  """What whole answers come to when the exact verifier reads them."""
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
  """One measure of one student."""
  config = _config(kind, workdir)
  if way == SEARCHED:
    modes.MODES['search'](config, f'{workdir}-search')
    path = os.path.join(f'{workdir}-search', 'search', search.SUMMARY)
    with open(path, encoding='utf-8') as f:
      return json.load(f)
  run = resolve.resolve(config, jax.devices())
  puzzles = problems.instances(
    SOURCE, '', students.PUZZLES - students.HARDEST, students.HARDEST
  )
  samples, temperature = (1, 0.0) if way == ONCE else (SAMPLES[kind], 1.0)
  return _verified(puzzles, _ask(run, puzzles, samples, temperature))


def draw(results, path):
  """Solved puzzles by kind and way, a dot for each seed."""
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axis = pyplot.subplots(figsize=(6.4, 3.4))
  colours = {'answer': 'tab:orange', 'trace': 'tab:blue'}
  names = []
  for kind, seeds in sorted(results.items()):
    for way in (ONCE, SAMPLED, SEARCHED):
      found = [each[way] for each in seeds.values() if way in each]
      if not found:
        continue
      x, values = len(names), [each['solved'] for each in found]
      calls = np.mean([each['calls'] for each in found]) / students.HARDEST
      names.append(f'{kind}s\n{way}')
      axis.bar(x, np.mean(values), color=colours[kind], width=0.6)
      axis.plot([x] * len(values), values, 'k.', markersize=5)
      axis.annotate(
        f'{calls:.0f} calls a puzzle',
        (x, max(values)),
        xytext=(0, 6),
        textcoords='offset points',
        ha='center',
        fontsize=8,
      )
  axis.set_xticks(range(len(names)), names, fontsize=8)
  axis.set_ylabel(f'solved of the hardest {students.HARDEST}')
  axis.margins(y=0.15)
  figure.tight_layout()
  figure.savefig(path, dpi=110)


def main(runs):
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
      # A student of answers alone knows of no steps that could be searched.
      if known or (kind, way) == ('answer', SEARCHED):
        continue
      found = measure(kind, os.path.join(runs, name), way)
      record = {'kind': kind, 'seed': seed, 'way': way, 'found': found}
      with open(path, 'a', encoding='utf-8') as f:
        f.write(json.dumps(record) + '\n')
      _add(results, record)
      folder = os.path.dirname(os.path.abspath(__file__))
      run_info.write_json(os.path.join(folder, 'results.json'), results)
      draw(results, os.path.join(folder, 'result.png'))


def _add(results, record):
  seeds = results.setdefault(record['kind'], {})
  seeds.setdefault(record['seed'], {})[record['way']] = record['found']


if __name__ == '__main__':
  main(*sys.argv[1:])
