"""Answers of a server with limits, faults, or a new model."""

import json

import pytest

from kd.config import base
from kd.core import errors
from kd.sampling import requests
from kd.teachers.served import answers
from kd.teachers.served import served_cases

_SETTINGS = requests.SamplingSettings(0.7, 0, 1.0, 0.0, 1.0, 30, ('\nQ:',))
_LIMITS = {'requests': 0, 'tokens': 0, 'money': 0.0}


def _open(server, folder, said=None, api=answers.CHAT, **spec):
  fields = base.get_config().teacher.server.to_dict()
  fields |= {'url': server.url, 'wait_s': 0.01, **spec}
  say = [].append if said is None else said.append
  return answers.Answerer(fields, str(folder), api, _SETTINGS, say)


def _messages(text):
  return [{'role': 'user', 'content': text}]


def _texts(replies):
  return [answer.text for reply in replies for answer in reply.answers]


def test_requests_follow_each_api(tmp_path):
  with served_cases.running() as server:
    for api in (answers.CHAT, answers.COMPLETIONS):
      with _open(server, tmp_path / api, api=api) as answerer:
        assert answerer.model == 'bigrams'
        (reply,) = answerer(_messages('Q'), 5, 3)
      assert _texts([reply]) == ['5', '6', '7']
      assert (reply.model, reply.fingerprint) == ('writer', 'first')
      assert (reply.prompt_tokens, reply.generated_tokens) == (1, 3)
  common = {'model': 'bigrams', 'n': 3, 'temperature': 0.7, 'seed': 5}
  common |= {'max_tokens': 30, 'stop': ['\nQ:']}
  chat = {'path': '/v1/chat/completions', 'messages': _messages('Q')}
  text = {'path': '/v1/completions', 'prompt': 'Q'}
  assert server.asked == [common | chat, common | text]


def test_unsupported_fields_are_left_out_and_reported(tmp_path):
  said = []

  def write(prompt, seed):
    if seed >= 0 and not limited:
      return "use 'max_completion_tokens' instead of max_tokens"
    return 'prompt is longer than the context' if prompt == 'long' else ('', '')

  limited = []
  with (
    served_cases.running(write=write, at_once=2) as server,
    _open(server, tmp_path, said) as answerer,
  ):
    # Found in this order: answers per request, name of the limit.
    server.fault = lambda n: limited.append(n) if n == 2 else None
    replies = answerer(_messages('Q'), 0, 5)
    assert [len(reply.answers) for reply in replies] == [2, 2, 1]
    bodies = server.asked[-3:]
    assert [body['n'] for body in bodies] == [2, 2, 1]
    assert [body['seed'] for body in bodies] == [0, 2, 4]
    assert all('max_completion_tokens' in body for body in bodies)
    assert replies[0].answers[0].finish == 'unknown'
    (reply,) = answerer(_messages('long'), 0, 2)
    assert [a.finish for a in reply.answers] == ['too_long'] * 2
    assert 'at most 2 answers per request' in ' '.join(said)
    count = len(server.asked)
    answerer.close()
    # A resumed run knows both already.
    with _open(server, tmp_path) as again:
      assert again(_messages('Q'), 0, 5) == replies
    assert len(server.asked) == count


def test_answers_are_requested_only_once(tmp_path):
  prompts = [f'{i}?' for i in range(6)]
  with served_cases.running() as server:
    with _open(server, tmp_path) as answerer:
      first = [answerer(_messages(p), 7, 2) for p in prompts[:4]]
    # A killed run leaves a partial reply.
    with open(tmp_path / 'replies', 'ab') as f:
      f.write(b'half of a reply')
    with _open(server, tmp_path) as answerer:
      again = [answerer(_messages(p), 7, 2) for p in prompts]
      assert again[:4] == first and len(server.asked) == 6
      # Another seed is another request.
      answerer(_messages(prompts[0]), 8, 2)
      assert len(server.asked) == 7


def test_another_model_ends_the_run(tmp_path):
  with served_cases.running() as server:
    with _open(server, tmp_path) as answerer:
      answerer(_messages('a'), 0, 1)
    server.fingerprint = 'second'
    with _open(server, tmp_path) as answerer:
      answerer(_messages('a'), 0, 1)  # Its reply is stored.
      with pytest.raises(errors.ConfigError, match="was 'first', now 'second'"):
        answerer(_messages('b'), 0, 1)
    with _open(server, tmp_path, fingerprint='any') as answerer:
      (reply,) = answerer(_messages('b'), 0, 1)
      assert reply.fingerprint == 'second'


@pytest.mark.parametrize(
  'name, most', [('requests', 3), ('tokens', 700), ('money', 1.4e-3)]
)
def test_budgets_count_used_tokens_and_stop_in_time(tmp_path, name, most):
  plan = {1: (429, {}), 2: (500, {})}
  price = {'prompt': 1.0, 'generated': 2.0}
  spec = {'price': price, 'budget': {**_LIMITS, name: most}}
  with served_cases.running(fault=plan.get) as server:
    with (
      _open(server, tmp_path, **spec) as answerer,
      pytest.raises(errors.ConfigError, match=f'budget.{name}: found'),
    ):
      for i in range(1000):
        answerer(_messages(f'{i:03}'), 0, 2)
    spent = json.loads((tmp_path / 'spent.json').read_text())
    # A failed request may have been charged: 3 bytes, a template, 2 answers of
    # 30 tokens. A rejected one (429) was not.
    failed, done = 3 + 256 + 60, len(server.asked) - 2
    assert spent['requests'] == len(server.asked)
    if len(server.asked) > 2:
      assert spent['tokens'] == failed + done * (3 + 2)
      used = failed + 60 + done * (3 + 2 * 2)
      assert spent['money'] == pytest.approx(used / 1e6)
    assert 0.5 * most < spent[name] <= most
    # With a larger budget, the same command resumes.
    count = len(server.asked)
    with _open(server, tmp_path) as answerer:
      answerer(_messages('000'), 0, 2)
      assert len(server.asked) == count
