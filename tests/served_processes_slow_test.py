"""Tests training of several processes with a teacher on several servers."""

import json

from kd.teachers.served import served_cases
from tests import command
from tests import process_runs


def _requests(servers):
  return sum(len(server.asked) for server in servers)


def test_two_processes_share_servers_and_a_budget(tmp_path):
  """They train like one process, and resume bit-identically."""
  with (
    served_cases.running() as first,
    served_cases.running() as second,
    process_runs.starting(tmp_path) as start,
  ):
    servers = first, second

    def run(name, count, *changes):
      return start(
        name,
        count,
        '--config.teacher.source=server',
        '--config.data.tokenizer=bytes',
        f'--config.teacher.server.url={first.url}',
        f'--config.teacher.server.replicas={second.url}',
        f'--config.teacher.server.folder={tmp_path}/{name}-replies',
        '--config.evaluation.batch_size=8',
        '--config.evaluation.sets.held_out.examples=8',
        *changes,
        devices=4 // count,
      )

    one, two = run('one', 1), run('two', 2)
    for each in (one, two):
      assert set(each.finish()) == {0}, each.text(0, 'err')
    expected = command.metrics(one.workdir)
    process_runs.assert_as_alone(two, expected)
    asked = len(first.asked), len(second.asked)
    assert 0.8 < asked[0] / asked[1] < 1.25, asked
    spent = [
      json.loads((tmp_path / name / 'spent.json').read_text())['requests']
      for name in ('one-replies', 'two-replies', 'two-replies/process_1')
    ]
    assert sum(spent) == _requests(servers)
    assert spent[1] > 10 and spent[2] > 10

    before = _requests(servers)
    budget = spent[1] + spent[2] - 10
    short = '--config.teacher.server.budget.requests'
    stopped = run('resumed', 2, f'{short}={budget}')
    assert stopped.finish() == [2, 2], stopped.text(0, 'err')
    assert 'teacher.server.budget.requests: found' in stopped.text(0, 'err')
    assert before < _requests(servers) <= before + budget
    resumed = run('resumed', 2, f'{short}=0')
    assert resumed.finish() == [0, 0], resumed.text(0, 'err')
    assert command.metrics(resumed.workdir) == command.metrics(two.workdir)
