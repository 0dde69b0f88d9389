"""What the students of experiments/game24 solve of the hardest 100 puzzles.

  python -m experiments.game24.measure RUNS

RUNS holds their workdirs, trace-0, answer-0, trace-1 and so on. For each, one
line of measures goes to RUNS/measures.jsonl as soon as it is known, and a
student that has its line is not asked again; in the end results.json and
result.png are written beside this file.
"""

import glob
import json
import os
import sys

import jax
import matplotlib
import numpy as np

from experiments.game24 import config as configs
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
  config = configs.get_config(kind)
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


def measure(kind, workdir):
  """The measures of one student."""
  config = _config(kind, workdir)
  run = resolve.resolve(config, jax.devices())
  puzzles = problems.instances(
    SOURCE, '', configs.PUZZLES - configs.HARDEST, configs.HARDEST
  )
  found = {
    ONCE: _verified(puzzles, _ask(run, puzzles, 1, 0.0)),
    SAMPLED: _verified(puzzles, _ask(run, puzzles, SAMPLES[kind], 1.0)),
  }
  if kind == 'trace':
    # A student of answers alone knows of no steps that could be searched.
    modes.MODES['search'](config, f'{workdir}-search')
    folder = os.path.join(f'{workdir}-search', 'search')
    with open(os.path.join(folder, search.SUMMARY), encoding='utf-8') as f:
      found[SEARCHED] = json.load(f)
  return found


def draw(results, path):
  """Solved puzzles by kind and way, a dot for each seed."""
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axis = pyplot.subplots(figsize=(6.4, 3.4))
  bars = [
    (kind, way)
    for kind in ('answer', 'trace')
    for way in (ONCE, SAMPLED, SEARCHED)
    if any(way in found for found in results[kind].values())
  ]
  colours = {'answer': 'tab:orange', 'trace': 'tab:blue'}
  for x, (kind, way) in enumerate(bars):
    values = [found[way]['solved'] for found in results[kind].values()]
    calls = [found[way]['calls'] for found in results[kind].values()]
    axis.bar(x, np.mean(values), color=colours[kind], width=0.6)
    axis.plot([x] * len(values), values, 'k.', markersize=5)
    axis.annotate(
      f'{np.mean(calls) / configs.HARDEST:.0f} calls',
      (x, max(values)),
      xytext=(0, 4),
      textcoords='offset points',
      ha='center',
      fontsize=8,
    )
  names = [f'{kind}s\n{way}' for kind, way in bars]
  axis.set_xticks(range(len(bars)), names, fontsize=8)
  axis.set_ylabel(f'solved of the hardest {configs.HARDEST}')
  axis.margins(y=0.15)
  figure.tight_layout()
  figure.savefig(path, dpi=110)


def main(runs):
  path = os.path.join(runs, 'measures.jsonl')
  known = {}
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      known = {tuple(x['of']): x['found'] for x in map(json.loads, f)}
  for workdir in sorted(glob.glob(os.path.join(runs, '*-[0-9]'))):
    kind, _, seed = os.path.basename(workdir).partition('-')
    if (kind, seed) in known:
      continue
    known[kind, seed] = measure(kind, workdir)
    with open(path, 'a', encoding='utf-8') as f:
      line = {'of': (kind, seed), 'found': known[kind, seed]}
      f.write(json.dumps(line) + '\n')
  results = {}
  for (kind, seed), found in sorted(known.items()):
    results.setdefault(kind, {})[seed] = found
  folder = os.path.dirname(os.path.abspath(__file__))
  run_info.write_json(os.path.join(folder, 'results.json'), results)
  draw(results, os.path.join(folder, 'result.png'))


if __name__ == '__main__':
  main(*sys.argv[1:])
