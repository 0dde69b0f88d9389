"""Tests many trees: shared sampler calls, resuming, refused folders."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys

import pytest

from kd.core import errors
from kd.reasoning.trees import game24
from kd.reasoning.trees import tree_problem
from kd.reasoning.trees import tree_run
from kd.reasoning.trees import tree_search
from kd.sampling import requests

GAME = game24.Game24()
PUZZLES = [
  tree_problem.Instance(f'p-{i}', question, '')
  for i, question in enumerate(('4 6 1 1', '3 3 8 8', '1 1 1 1', '2 3 5 12'))
]
PLAN = tree_search.SearchSettings(
  method='beam',
  proposals='sampled',
  samples=4,
  shots=0,
  evaluator='likelihood',
  votes=1,
  breadth=3,
  depth=0,
  prune=0.0,
  deduplicate=True,
  solutions=0,
  max_calls=24,
  max_tokens=0,
  max_nodes=0,
  max_new_tokens=60,
  seed=0,
)
SETTINGS = requests.SamplingSettings(1.0, 0, 1.0, 0.0, 1.0, 60, ('\n',))


class Player:
  """A sampler that depends only on the seed of each request."""

  def __init__(self, kill_at: int = 0):
    self.batches: list[int] = []
    self._kill_at = kill_at

  def __call__(self, batch, settings, progress=None):
    assert settings is SETTINGS and progress is None
    self.batches.append(len(batch))
    if len(self.batches) == self._kill_at:
      os.kill(os.getpid(), signal.SIGKILL)
    return [self._answer(request) for request in batch]

  def _answer(self, request):
    question, *thoughts = bytes(request.ids).decode().splitlines()
    state = GAME.root(tree_problem.Instance('', question, ''))
    for thought in thoughts:
      state = GAME.apply(state, thought)
    rng = random.Random(request.seed)
    samples = []
    for _ in range(request.samples):
      text = rng.choice([*GAME.propose(state), '', 'x', '9 * 9 = 81'])
      ids = tuple(text.encode())
      logprobs = tuple(-rng.random() for _ in ids)
      samples.append(requests.Sample(ids, logprobs, text, 'stop'))
    return samples


def _encode(inputs, so_far):
  return tuple((inputs.removeprefix('Make 24: ') + so_far).encode())


def search(folder, player, instances=PUZZLES, plan=PLAN, together=3):
  return tree_run.run(
    GAME,
    instances,
    plan,
    tree_run.ThoughtModel(player, SETTINGS, _encode),
    str(folder),
    {'plan': dataclasses.asdict(plan), 'model': 'scripted'},
    together,
    lambda line: None,
  )


def _files(folder):
  return {p.name: p.read_bytes() for p in sorted((folder / 'trees').iterdir())}


def test_states_of_all_trees_share_calls(tmp_path):
  player = Player()
  trees = search(tmp_path, player, together=len(PUZZLES))
  assert player.batches[0] == len(PUZZLES)
  # One call per level of the deepest tree, and those that its budget adds.
  assert len(player.batches) <= 5
  assert [t.instance for t in trees] == [p.id for p in PUZZLES]
  again = Player()
  alone = search(tmp_path / 'alone', again, together=1)
  assert [t.to_json() for t in alone] == [t.to_json() for t in trees]
  assert len(again.batches) > len(player.batches)


def _killed(folder, at):
  """Returns a process that is killed in its sampler's call number `at`."""
  code = (
    'import sys; from kd.reasoning.trees import tree_run_test as t; '
    't.search(sys.argv[1], t.Player(int(sys.argv[2])))'
  )
  process = subprocess.run(
    [sys.executable, '-c', code, str(folder), str(at)],
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
    check=False,
  )
  return process.returncode


def test_killed_searches_end_with_equal_trees(tmp_path):
  undisturbed = Player()
  search(tmp_path / 'whole', undisturbed)
  calls = len(undisturbed.batches)
  assert calls > 3
  folder = tmp_path / 'killed'
  # Killed in its first, second and third call, with an incomplete last line.
  for at in (1, 2, 3):
    assert _killed(folder, at) == -signal.SIGKILL
    with open(folder / tree_run.CALLS, 'ab') as f:
      f.write(b'{"name": "12-3-ab", "samp')
  assert _files(folder) != _files(tmp_path / 'whole')
  last = Player()
  search(folder, last)
  # Nothing was sampled twice: three calls were answered before the last kill.
  assert len(last.batches) == calls - 3
  assert _files(folder) == _files(tmp_path / 'whole')
  assert not (folder / tree_run.CALLS).exists()
  done = Player()
  search(folder, done)
  assert not done.batches


def test_more_instances_continue_in_the_same_folder(tmp_path):
  search(tmp_path, Player(), PUZZLES[:2])
  player = Player()
  trees = search(tmp_path, player)
  assert player.batches[0] == 2 and len(trees) == 4


def test_another_search_is_refused(tmp_path):
  search(tmp_path, Player())
  before = _files(tmp_path)
  other = dataclasses.replace(PLAN, breadth=2)
  with pytest.raises(
    errors.ConfigError, match='plan.breadth: recorded 3, now 2'
  ):
    search(tmp_path, Player(), plan=other)
  changed = [dataclasses.replace(PUZZLES[0], question='1 2 3 4')]
  with pytest.raises(errors.ConfigError, match="'4 6 1 1'.*'1 2 3 4'"):
    search(tmp_path, Player(), changed)
  assert _files(tmp_path) == before
  (tmp_path / 'trees' / 'p-0.json').write_text('{}')
  with pytest.raises(errors.ConfigError, match='p-0.json: is not a tree'):
    search(tmp_path, Player())


def test_a_wrong_line_of_answers_is_named(tmp_path):
  assert _killed(tmp_path, 2) == -signal.SIGKILL
  path = tmp_path / tree_run.CALLS
  lines = path.read_text().splitlines()
  path.write_text('\n'.join([lines[0], json.dumps({'name': 1}), '']))
  with pytest.raises(errors.ConfigError, match='calls.jsonl:2'):
    search(tmp_path, Player())
