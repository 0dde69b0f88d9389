"""Tests the text of tables."""

import re

import pytest

from kd.evaluation import intervals
from kd.evaluation import table

TABLE = table.Table(
  columns=['teacher', 'student before', 'student|after'],
  rows=[
    table.TableRow(
      'NLL (nats/token)', [0.51, 12.25, intervals.Interval(0.71239, 0.7, 0.725)]
    ),
    table.TableRow('exact match', [None, 0.0, 1 / 3], decimals=2),
  ],
  notes=['NLL: a note.'],
)


def test_markdown():
  lines = table.markdown(TABLE).splitlines()
  assert lines == [
    r'|  | teacher | student before | student\|after |',
    '| --- | ---: | ---: | ---: |',
    '| NLL (nats/token) | 0.5100 | 12.2500 | 0.7124 [0.7000, 0.7250] |',
    '| exact match | - | 0.00 | 0.33 |',
    '',
    '- NLL: a note.',
  ]


def test_text_is_aligned():
  *lines, note = table.text(TABLE).splitlines()
  assert len({len(line) for line in lines}) == 1
  ends = [
    line.index('student before') + len('student before') for line in lines[:1]
  ]
  assert lines[2][: ends[0]].endswith(' 12.2500')
  assert lines[3][: ends[0]].endswith(' 0.00')
  assert note == 'NLL: a note.'


def test_row_of_another_width_is_refused():
  with pytest.raises(ValueError, match="row 'KL' has 1 cells, not 2"):
    table.Table(['a', 'b'], [table.TableRow('KL', [1.0])])


@pytest.mark.parametrize(
  'interval, words',
  [
    ((0.4, 0.1, 0.6), '40.0% .* 10.0% to 60.0%.: distillation helped'),
    ((-0.4, -0.6, -0.1), 'hurt'),
    ((0.1, -0.1, 0.3), 'inconclusive'),
  ],
)
def test_gap_note(interval, words):
  gap = intervals.GapShare(intervals.Interval(*interval), '')
  assert re.search(words, table.gap_note('NLL', gap))


def test_gap_note_contains_the_reason():
  gap = intervals.GapShare(None, 'teacher and baseline are equal')
  assert 'teacher and baseline are equal' in table.gap_note('NLL', gap)
