"""Tests --mode=search with a real model: kills and outputs."""

import ast
import glob
import json
import os
import signal
import time

import pytest

from kd.config import base
from kd.config import command_line
from kd.input_pipeline import arithmetic
from kd.modes import cache as cache_mode
from kd.modes import search as search_mode
from kd.modes import train as train_mode
from kd.reasoning.trees import gsm8k
from kd.reasoning.trees import tree_problem
from tests import command
from tests import page_commands

_TEACHER = os.path.join('data', 'fixtures', 'quickstart_teacher')
_MODEL = (
  '--mode=search',
  '--config=configs/quickstart.py',
  f'--config.student.init=hf:{_TEACHER}',
  '--config.student.variant=',
)
_QUESTIONS = ('What is 3+4?', 'Q: 21+4-3=?', 'Add 7 to 12.', '5-2=?')


def _arguments(folder, data, *more):
  return [
    *(*_MODEL, f'--workdir={folder}', f'--config.search.data={data}'),
    *more,
  ]


@pytest.fixture(scope='module')
def questions(tmp_path_factory):
  """The arguments for questions; the GSM8K problem accepts any thought."""
  path = tmp_path_factory.mktemp('data') / 'questions.jsonl'
  lines = [{'question': q, 'answer': '#### 7'} for q in _QUESTIONS]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  more = (
    '--config.search.problem=gsm8k',
    '--config.search.evaluator=likelihood',
    '--config.search.samples=3',
    '--config.search.breadth=2',
    '--config.search.depth=3',
    '--config.search.max_new_tokens=24',
    '--config.search.temperature=1.0',
    '--config.search.max_calls=14',
    '--config.search.concurrency=1',
  )
  return lambda folder: _arguments(folder, path, *more)


def _files(folder):
  found = {}
  for where, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(where, name)
      with open(path, 'rb') as f:
        found[os.path.relpath(path, folder)] = f.read()
  return found


def test_killed_searches_end_with_equal_trees(questions, tmp_path):
  running = command.start(questions(tmp_path / 'killed'))
  calls = tmp_path / 'killed' / 'search' / 'calls.jsonl'
  for _ in range(30_000):
    if calls.exists() and calls.stat().st_size:
      break
    assert running.poll() is None, command.finish(running)
    time.sleep(0.01)
  running.send_signal(signal.SIGKILL)
  assert command.finish(running)[0] == -signal.SIGKILL
  code, again, err = command.run(questions(tmp_path / 'killed'))
  assert code == 0, err
  code, out, err = command.run(questions(tmp_path / 'whole'))
  assert code == 0, err
  whole = _files(tmp_path / 'whole' / 'search')
  assert _files(tmp_path / 'killed' / 'search') == whole
  assert again.splitlines()[-1] == out.splitlines()[-1]
  names = set(whole)
  assert names >= {'paths.jsonl', 'pairs.jsonl', 'branches.jsonl'}
  assert {'pictures.html', 'trees/gsm8k-00001.json'} <= names
  summary = json.loads(whole['summary.json'])
  assert summary['trees'] == len(_QUESTIONS)
  trees = [
    json.loads(text)
    for name, text in whole.items()
    if name.startswith('trees/')
  ]
  assert summary['calls'] == sum(t['spent']['calls'] for t in trees)
  assert all(0 < t['spent']['calls'] <= 14 for t in trees)
  assert any(len(t['nodes']) > 1 for t in trees)


def test_text_of_a_real_model_does_not_end_a_search(tmp_path):
  """The model was trained on sums, not on the game of 24."""
  path = tmp_path / 'puzzles.csv'
  path.write_text('Rank,Puzzles\n1,4 6 1 1\n2,3 3 8 8\n')
  code, out, err = command.run(
    _arguments(
      tmp_path / 'run',
      path,
      '--config.search.max_new_tokens=16',
      '--config.search.temperature=1.5',
      '--config.search.samples=6',
    )
  )
  assert code == 0, err
  with open(tmp_path / 'run' / 'search' / 'summary.json') as f:
    summary = json.load(f)
  assert sum(summary['faults'].values()) >= summary['calls'] > 0
  for kind, count in summary['faults'].items():
    assert f'{count} {kind}' in out


def test_invalid_fields_are_refused_by_name(tmp_path):
  for more, words in (
    (['--config.search.problem=gsm8k'], ['search.data', 'nowhere']),
    (
      [
        '--config.search.problem=gsm8k',
        '--config.search.proposals=enumerated',
      ],
      ['search.proposals', "'sampled'"],
    ),
  ):
    code, _, err = command.run(
      _arguments(tmp_path / 'run', '/nowhere/x', *more)
    )
    assert code == 2 and all(word in err for word in words), err
  assert not (tmp_path / 'run').exists()


def test_questions_have_the_format_of_the_task():
  with open(
    os.path.join('data', 'prompts', 'gsm8k_cot.txt'), encoding='utf-8'
  ) as f:
    asked = f.read().format(question='How many?')
  instance = tree_problem.Instance('g', 'How many?', '')
  assert gsm8k.Gsm8k().inputs(instance) == asked


def test_no_code_of_the_packages_executes_text():
  """These packages process generated text; none of them can execute it."""
  files = [
    f
    for package in ('reasoning', 'evaluation', 'sampling', 'train', 'modes')
    for f in glob.glob(f'kd/{package}/**/*.py', recursive=True)
    if not f.endswith('_test.py')
  ]
  assert len(files) > 60
  banned = {'eval', 'exec', 'compile', '__import__'}
  parsers = {'sympify', 'parse_expr', 'literal_eval', 'system', 'popen'}
  for file in files:
    with open(file, encoding='utf-8') as f:
      nodes = list(ast.walk(ast.parse(f.read())))
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    attributes = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    assert not names & banned and not attributes & parsers, file


def test_branches_train_a_student_through_a_cache(tmp_path, monkeypatch):
  """The teacher's soft targets are used only at a state's thoughts."""
  puzzles = tmp_path / 'game24' / '24.csv'
  puzzles.parent.mkdir()
  puzzles.write_text('Rank,Puzzles\n1,4 6 1 1\n2,3 3 8 8\n3,2 3 4 5\n')
  monkeypatch.setenv('KD_DATA_DIR', str(tmp_path))
  # The page's command, with all of these puzzles.
  config, _ = page_commands.parse(page_commands.commands('docs/trees.md')[0])
  config.search.update(first=0, count=-1, num_pictures=0)
  search_mode.main(config, str(tmp_path / 'trees'))
  path = tmp_path / 'trees' / 'search' / 'branches.jsonl'
  branches = [json.loads(line) for line in path.read_text().splitlines()]
  used = [b for b in branches if arithmetic.split_of(b['inputs']) == 'train']
  used = used[:: len(used) // 15][:16]  # From several trees and states.
  assert len({(b['tree'], b['rationale']) for b in used}) > 1
  few = tmp_path / 'few.jsonl'
  few.write_text(''.join(json.dumps(b) + '\n' for b in used))
  monkeypatch.setenv('KD_TRACES', str(few))
  config = command_line.load('configs/quickstart.py')
  config.update_from_flattened_dict(
    {
      'steps': 1,
      'data.module': 'kd.data.traces',
      'data.mixture': 'traces_cot',
      'data.length': 256,
      'data.batch_size': 16,
      'data.examples': 16,
      'data.pack': False,
      'data.folder': str(tmp_path / 'rows'),
      'losses.kl.part': 'answer',
      'optimizer.lr.warmup_steps': 0,
      'evaluation.baseline': False,
      'log.tensorboard': False,
      'cache.folder': str(tmp_path / 'cache'),
    }
  )
  config.evaluation.every, config.evaluation.sets = 0, {}
  with config.cache.unlocked():
    config.cache.method = base.cache_method('top_k', entries=256)
  lines = {}
  with command.compiled_once():
    cache_mode.main(config, str(tmp_path / 'report'))
    for source in ('live', 'cached'):
      config.teacher.source = source
      workdir = str(tmp_path / source)
      train_mode.main(config, workdir)
      (lines[source],) = command.metrics(workdir)
  losses = [line['train/loss/kl'] for line in lines.values()]
  assert losses[0] == pytest.approx(losses[1], rel=2e-3)
  # Each row counts once, with the bytes after the earlier thoughts and the stop
  # token.
  counted = sum(len(b['targets']) - len(b['rationale']) + 1 for b in used)
  assert lines['live']['train/target_weight/kl'] == counted
  assert counted < lines['live']['train/target_weight'] - 16
