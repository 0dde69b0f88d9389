"""Tests traces of a scripted sampler: verdicts, votes, selection, resuming."""

from collections.abc import Sequence
import dataclasses
import fractions
import itertools
import json
import random

import pytest

from kd.core import errors
from kd.data_files import examples as file_examples
from kd.reasoning.arithmetic import answers
from kd.reasoning.chains import answer_kinds
from kd.reasoning.chains import chain_report
from kd.reasoning.chains import chains
from kd.reasoning.chains import prompting
from kd.reasoning.chains import questions
from kd.reasoning.chains import selection
from kd.reasoning.chains import traces
from kd.sampling import requests

SETTINGS = requests.SamplingSettings(1.0, 0, 1.0, 0.0, 1.0, 99, ())
RULES = selection.Rules('correct', 0.5, 'right', 1, 0, 0)


class Killed(Exception):
  pass


def _scripted(replies, kill_after=None):
  """Returns a sampler whose replies depend only on seed and sample index."""
  calls = itertools.count()

  def sampler(batch: Sequence[requests.Request], settings, progress=None):
    assert settings is SETTINGS and progress is None
    if kill_after is not None and next(calls) >= kill_after:
      raise Killed
    return [
      [
        _sample(random.Random(f'{r.seed}:{n}').choice(replies))
        for n in range(r.samples)
      ]
      for r in batch
    ]

  return sampler


def _sample(reply):
  text, _, finish = reply.partition('@')
  ids = tuple(text.encode())
  return requests.Sample(ids, (-0.5,) * len(ids), text, finish or 'stop')


def _question(name='q', solution='2 + 3 = 5\n#### 5'):
  rationale = solution.rpartition('####')[0].strip()
  return questions.Question(
    name, 'Question: 2 + 3?\nAnswer:\n', solution, rationale
  )


def _judge(*replies, question=None):
  samples = [
    traces.SampledSolution.from_sample(_sample(reply)) for reply in replies
  ]
  return traces.judge(question or _question(), samples)


def _reasons(group, rules=RULES):
  kept, rejected = selection.select([group], rules)
  reasons = {trace.number: reason for trace, reason in rejected}
  assert {t.number for t in kept} | set(reasons) == set(range(len(group)))
  return [reasons.get(i, '') for i in range(len(group))]


GOOD = 'We add: 2 + 3 = 5.\n#### 5'


@pytest.mark.parametrize(
  'reply, reason',
  [
    (GOOD, ''),
    ('<<2+3=5>>5 in all.\n\nThe answer is 5.', ''),
    ('2 + 3 = 5\n\nSo \\boxed{5.00}', ''),
    ('2 + 3 = 5\n#### 5\n\nQuestion: 1 + 1?\nAnswer:\n#### 2', ''),
    ('@too_long', 'prompt_too_long'),
    ('', 'empty'),
    (' \n @length', 'empty'),
    ('2 + 3 = 5 and the answer is 5@length', 'cut'),
    ('2 + 3 = 5, which is it.\n#### five', 'no_answer'),
    ('2 + 3 = 5\n#### 5 or\n#### 5', 'many_markers'),
    ('2 + 3 = 6, no.\n#### 5', 'wrong_step'),
    ('5 / 0 = 5\n#### 5', 'wrong_step'),
    ('2 + = 5\n#### 5', 'wrong_step'),
    ('It is clear.\n#### 5', 'few_steps'),
    ('2 + 4 = 6\n#### 6', 'wrong_answer'),
  ],
)
def test_replies_are_rejected_with_a_reason(reply, reason):
  assert _reasons(_judge(reply)) == [reason]


def test_missing_references_are_rejected_unless_votes_decide():
  question = _question(solution='nobody knows')
  group = _judge(
    GOOD, '2 + 3 = 5 too.\n#### 5', '3+3=6\n#### 6', question=question
  )
  assert _reasons(group) == ['no_reference'] * 3
  voted = selection.Rules('voted', 0.6, 'right', 1, 0, 0)
  # The second one has the same calculations as the first.
  assert _reasons(group, voted) == ['', 'duplicate_steps', 'outvoted']
  strict = selection.Rules('voted', 0.7, 'right', 1, 0, 0)
  assert _reasons(group, strict) == ['outvoted'] * 3


def _majority(values):
  """Returns the most frequent value by brute force; None in a tie."""
  given = [v for v in values if v is not None]
  return next(
    (
      v
      for v in given
      if all(given.count(v) > given.count(w) for w in given if w != v)
    ),
    None,
  )


def test_vote_is_the_strict_majority():
  rng = random.Random(0)
  for _ in range(500):
    values = rng.choices(
      [None, 1, 2, fractions.Fraction(1, 2)], k=rng.randrange(8)
    )
    vote = traces.vote([answers.Answer(v, '', 0) for v in values])
    assert vote.winner == _majority(values)
    if vote.winner is not None:
      given = sum(v is not None for v in values)
      assert vote.fraction == values.count(vote.winner) / given


def test_texts_without_a_number_are_answers_as_a_whole():
  kind = answer_kinds.KINDS['text']
  question = _question(solution='Bonjour le monde')
  replies = ('Bonjour  le monde', 'Salut 2+2=5', 'Bonjour le\nmonde', ' ')
  samples = [traces.SampledSolution(r, 'stop', 3, None) for r in replies]
  samples.append(traces.SampledSolution('Bonjour le monde', 'length', 3, None))
  group = traces.judge(question, samples, kind)
  reasons = ['', 'wrong_answer', 'duplicate_text', 'empty', 'cut']
  assert _reasons(group) == reasons
  voted = selection.Rules('voted', 0.5, 'right', 1, 0, 0)
  reasons[1] = 'outvoted'
  assert _reasons(group, voted) == reasons
  assert (group[1].targets, group[1].rationale) == ('Salut 2+2=5', '')
  kept, rejected = selection.select([group], voted)
  summary = chain_report.summarize([group], kept, rejected)
  assert (summary['vote_accuracy'], summary['sample_accuracy']) == (1, 2 / 5)
  page = chain_report.page(summary, {}, kept, rejected)
  assert 'reference: Bonjour le monde' in page


def test_duplicates_by_text_and_by_statements():
  group = _judge(
    GOOD,
    'we  ADD 2 + 3 = 5\n#### 5.0',
    'Adding 2+3=5, fine.\n#### 5',
    'First 1 + 1 = 2, and 2 + 3 = 5.\n#### 5',
  )
  assert _reasons(group) == ['', 'duplicate_text', 'duplicate_steps', '']
  kept, _ = selection.select([group, _judge(GOOD)], RULES)
  assert len(kept) == 3  # Another problem may have the same solution.


def _chain(n, name):
  """Returns a right solution of n statements, different for each name."""
  work = ', '.join(f'{i} + {name} = {i + name}' for i in range(n))
  return f'{work}, 2 + 3 = 5\n#### 5'


def test_limits_balance_problems_and_lengths():
  groups = [
    _judge(
      *(_chain(0, 0) if n else _chain(3, k) for k, n in enumerate(shape)),
      question=_question(f'q{i}'),
    )
    for i, shape in enumerate([(0, 0, 0, 0), (0, 1), (0, 0, 0)])
  ]
  rules = selection.Rules('correct', 0.5, 'right', 1, 3, 4)
  kept, rejected = selection.select(groups, rules)
  # At most three per problem. Problems then take turns until there are four
  # traces with four statements.
  assert [t.id for t in kept] == ['q0-0', 'q0-1', 'q1-0', 'q1-1', 'q2-0']
  assert [(t.id, r) for t, r in rejected] == [
    ('q0-2', 'over_per_steps'),
    ('q0-3', 'over_per_problem'),
    ('q2-1', 'over_per_steps'),
    ('q2-2', 'over_per_steps'),
  ]


def _prompts(count):
  questions_ = [_question(f'q{i}') for i in range(count)]
  return [
    chains.Prompt(q, (2, i + 3), chains.seed_of(7, q))
    for i, q in enumerate(questions_)
  ]


REPLIES = [GOOD, '2+3=5, yes\n#### 5', '2+3=6\n#### 6', '@too_long', 'x@length']


def _run(folder, kill_after=None, prompts=None, identity=None, samples=3):
  return chains.sample(
    prompts or _prompts(7),
    chains.solver(_scripted(REPLIES, kill_after), SETTINGS, samples, 2),
    samples,
    str(folder),
    identity or {'model': 'm'},
    lambda line: None,
  )


def test_killed_and_uninterrupted_runs_write_equal_files(tmp_path):
  whole = _run(tmp_path / 'whole')
  wanted = (tmp_path / 'whole' / chains.SAMPLES).read_bytes()
  assert (
    len(wanted.splitlines()) == 7
    and len({s.text for g in whole for s in g.samples}) > 2
  )
  cut = tmp_path / 'cut'
  for calls in (1, 1):
    with pytest.raises(Killed):
      _run(cut, kill_after=calls)
  # A killed run may leave any prefix of the file.
  file = cut / chains.SAMPLES
  written = file.read_bytes()
  assert written and wanted.startswith(written)
  for length in range(0, len(written) + 1, 61):
    file.write_bytes(wanted[:length])
    assert _run(cut) == whole
    assert file.read_bytes() == wanted
  # Finished: nothing more is sampled.
  assert _run(cut, kill_after=0) == whole


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(identity={'model': 'other'}), "model: recorded 'm', now 'other'"),
    (dict(prompts=_prompts(6)), 'prompts: recorded'),
    (dict(samples=2), 'jsonl:1: has samples of'),
  ],
)
def test_samples_of_another_run_are_refused(tmp_path, changes, words):
  _run(tmp_path)
  before = (tmp_path / chains.SAMPLES).read_bytes()
  with pytest.raises(errors.ConfigError, match=words):
    _run(tmp_path, **changes)
  assert (tmp_path / chains.SAMPLES).read_bytes() == before


def test_damaged_lines_are_named(tmp_path):
  _run(tmp_path)
  file = tmp_path / chains.SAMPLES
  lines = file.read_bytes().splitlines(keepends=True)
  file.write_bytes(lines[0] + b'{"id": 1}\n' + b''.join(lines[2:]))
  with pytest.raises(errors.ConfigError, match='jsonl:2: is damaged'):
    _run(tmp_path)


def test_written_traces_are_read_and_counted(tmp_path):
  prompts = _prompts(40)
  sampled = _run(tmp_path, prompts=prompts)
  groups = [
    traces.judge(p.question, s.samples)
    for p, s in zip(prompts, sampled, strict=True)
  ]
  kept, rejected = selection.select(groups, RULES)
  path = chains.write(str(tmp_path), kept, prompts, {'model': 'm'})
  with open(path, encoding='utf-8') as f:
    rows = [json.loads(line) for line in f]
  assert len(rows) == len(kept) > 5
  for row in rows:
    assert row['targets'].startswith(row['rationale'])
    assert answers.extract(row['targets']).value == 5
    assert row['provenance']['steps'] == {'right': 1}
    assert row['provenance']['right'] and row['provenance']['model'] == 'm'
  summary = chain_report.summarize(groups, kept, rejected)
  texts = [s for group in sampled for s in group.samples]
  assert (
    summary['samples']
    == 120
    == summary['accepted'] + sum(summary['reasons'].values())
  )
  assert summary['reasons']['prompt_too_long'] == sum(
    s.finish == 'too_long' for s in texts
  )
  right = sum('#### 5' in s.text for s in texts)
  assert summary['sample_accuracy'] == right / 120
  page = chain_report.page(summary, {'model': 'm'}, kept, rejected)
  assert f'{len(kept)} of 120 samples' in page
  assert 'wrong: `2+3=6` (is 5)' in page


def test_chats_answered_by_a_server_keep_their_turns(tmp_path):
  chat = (
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': '2 + 3?'},
  )
  question = questions.Question('q', 'flat', 'Five.', '', chat)
  asked = prompting.messages('chat', '', (), question, keep_chat=True)
  assert asked == list(chat)
  (flat,) = prompting.messages('chat', '', (), question)
  assert flat['content'] == 'flat'
  seen = dataclasses.replace(question, chat=({**chat[1], 'images': ('x',)},))
  with pytest.raises(errors.ConfigError, match='has images'):
    prompting.messages('chat', '', (), seen, keep_chat=True)
  prompt = chains.Prompt(question, (), 1, chat)
  sampled = [traces.SampledSolution('Five.', 'stop', 2, None)]
  kind = answer_kinds.KINDS['text']
  kept, _ = selection.select([traces.judge(question, sampled, kind)], RULES)
  path = chains.write(str(tmp_path), kept, [prompt], {})
  with open(path, encoding='utf-8') as f:
    row = json.loads(f.read())
  example = file_examples.example(row, 'x', file_examples.Columns(), 'x')
  said = {'role': 'assistant', 'content': 'Five.'}
  roles = [(m['role'], m['content']) for m in example['messages']]
  assert roles == [tuple(m.values()) for m in (*chat, said)]


def test_random_text_does_not_stop_a_run():
  rng = random.Random(0)
  pieces = (*'0123456789+-*/=() \n', '####', '\\boxed{', '}', '<<', '>>', 'is ')
  question = _question()
  for _ in range(300):
    group = _judge(
      *(''.join(rng.choices(pieces, k=40)) for _ in range(4)), question=question
    )
    kept, rejected = selection.select(
      [group], selection.Rules('any', 0, 'any', 0, 0, 0)
    )
    for trace in kept:
      assert trace.rationale
    summary = chain_report.summarize([group], kept, rejected)
    assert chain_report.page(summary, {}, kept, rejected)
