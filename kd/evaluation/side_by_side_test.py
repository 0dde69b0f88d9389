"""Tests answers of several models next to each other."""

import re

from kd.evaluation import side_by_side


def _records(verdicts, **changes):
  return [
    {
      'set': 'a',
      'task': 't',
      'id': str(i),
      'prompt': f'Q{i}',
      'reference': f'R{i}',
      'answer': f'A{i}',
      'verdict': verdict,
      'finish': 'stop',
      **changes,
    }
    for i, verdict in enumerate(verdicts)
  ]


def test_differing_examples_come_before_right_and_wrong_ones():
  answers = {
    'teacher': _records(['right'] * 6),
    'student': _records(['right', 'right', 'wrong', 'unparsed', 'wrong']),
  }
  chosen = side_by_side.choose(answers, 'student', each=1)
  assert [e['student']['id'] for e in chosen] == ['2', '0', '3']
  assert all(e['teacher']['id'] == e['student']['id'] for e in chosen)


def test_tasks_without_verdicts_have_examples():
  answers = {'student': _records([None] * 5)}
  assert len(side_by_side.choose(answers, 'student')) == 2


def test_text_of_a_model_stays_in_its_block():
  bad = '```\n# Title\n````\x1b[31m\u202e|<b>' + 'x' * 1000
  block = side_by_side.block({'student': _records(['wrong'], answer=bad)[0]})
  fence = re.match('`+', block)[0]
  assert fence == '`' * 5 and block.endswith(f'\n{fence}')
  assert block.count(fence) == 2
  assert '\x1b' not in block and r'\x1b[31m\u202e|<b>' in block
  assert len(block) < 600 and ' ...' in block


def test_each_evaluation_shows_the_same_examples():
  one = {'teacher': _records(['right'] * 6), 's': _records(['wrong'] * 6)}
  other = {'teacher': one['teacher'], 's': _records(['right'] * 6)}
  found = [
    side_by_side.texts(x, most=2)['eval/a/answers'] for x in (one, other)
  ]
  for text in found:
    assert re.findall(r'prompt .*(Q\d)', text) == ['Q0', 'Q1']
  assert 's: wrong' in found[0] and 's: right' in found[1]
