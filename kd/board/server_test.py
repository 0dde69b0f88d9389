import http.client
import json
import os
import threading

import pytest

from kd.board import answer_tokens
from kd.board import board_cases
from kd.board import database
from kd.board import evaluations
from kd.board import pages
from kd.board import run_files
from kd.board import server
from kd.core import errors


@pytest.fixture(scope='module')
def listener(tmp_path_factory):
  root = tmp_path_factory.mktemp('runs')
  run = board_cases.write(root / 'good')
  board_cases.evaluate(run, 'step_0', 4.6, 0)
  board_cases.evaluate(run, 'teacher', 0.1, 24)
  path = board_cases.evaluate(run, 'step_100', 0.9, 16)
  bad = board_cases.write(root / 'bad')
  board_cases.evaluate(bad, 'step_0', 4.6, 0)
  with open(path, encoding='utf-8') as f:
    record = json.load(f)
  record['scores']['held_out']['weight'] = []
  (bad / 'evaluations' / 'step_100.json').write_text(json.dumps(record))
  (bad / 'evaluations' / 'step_100.answers.jsonl').write_text('{"x": 1}\n')
  (root / 'plan.json').write_text('{"plans": 3}')
  (root / 'cache.json').write_text('[')
  db = database.Database([str(root)])
  found = server.bind(pages.Pages(db, database.Query(), []), [], 0)
  threading.Thread(target=found.serve_forever, daemon=True).start()
  yield found
  found.shutdown()
  found.server_close()


def _ask(listener, path, method='GET', body=None, **headers):
  port = listener.server_address[1]
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
  headers.setdefault('Host', f'127.0.0.1:{port}')
  connection.request(method, path, body, headers)
  response = connection.getresponse()
  data = response.read()
  connection.close()
  return response.status, data


def _json(listener, path):
  status, data = _ask(listener, path)
  assert status == 200, data
  return json.loads(data)


def test_only_the_boards_own_files_and_pages_are_served(listener):
  assert _ask(listener, '/')[0] == 200
  assert b'export' in _ask(listener, '/chart.js')[1]
  for path in (
    *('/../server.py', '/%2e%2e/server.py', '//etc/passwd', '/page/app.js'),
    *('/api/run?run=../good', '/api/run?run=/etc', '/api/nothing'),
    '/api/tree?search=x&tree=../../plan',
  ):
    assert _ask(listener, path)[0] == 404, path


def test_other_hosts_and_methods_are_refused(listener):
  assert _ask(listener, '/api/runs', Host='example.com')[0] == 403
  for site, code in (('cross-site', 403), ('same-origin', 200), ('none', 200)):
    site = {'Sec-Fetch-Site': site}
    assert _ask(listener, '/api/runs', **site)[0] == code
  assert _ask(listener, '/api/runs', 'POST', '{}')[0] == 404
  assert _ask(listener, '/api/runs', 'DELETE')[0] == 501
  text = {'Content-Type': 'text/plain'}
  assert _ask(listener, '/api/chat', 'POST', '{}', **text)[0] == 404
  as_json = {'Content-Type': 'application/json'}
  for body in ('{}', '[', '{"messages": [], "server": 0}'):
    assert _ask(listener, '/api/chat', 'POST', body, **as_json)[0] == 400
  with pytest.raises(errors.ConfigError, match='board.port'):
    server.bind(listener.RequestHandlerClass.pages, [], listener.server_port)


def test_an_empty_condition_replaces_the_initial_one(listener, monkeypatch):
  pages_ = listener.RequestHandlerClass.pages
  monkeypatch.setattr(pages_, '_query', database.Query(where='step < 0'))
  assert not _json(listener, '/api/runs')['runs']
  shown = _json(listener, '/api/runs?where=&metric=&sort=')
  assert len(shown['runs']) == 2 and shown['query']['where'] == ''


def test_tables_contain_the_reports_intervals_and_answers(listener):
  (table,) = _json(listener, '/api/tables?run=good')['tables']
  assert table['columns'] == ['teacher', 'student before', 'student after']
  nll = table['rows'][0]['cells'][2]
  assert nll['low'] < nll['value'] < nll['high']
  # The requested mean, over examples of about the same weight.
  assert nll['value'] == pytest.approx(0.9, rel=0.03)
  found = _json(listener, '/api/answers?run=good&set=held_out')
  answers = found['examples']
  assert len(answers) == 24
  assert answers[0]['models']['student after']['verdict'] == 'right'
  # (1 - 0.5 * 0.5) * 0.9 of the NLL; the KL is 0.9 of that.
  assert answers[0]['models']['student after']['kl'] == pytest.approx(
    0.9 * 0.75 * 0.9
  )


def test_distances_are_computed_on_the_scored_examples(tmp_path):
  run = board_cases.write(tmp_path / 'run')
  board_cases.evaluate(run, 'step_0', 4.6, 0)
  path = board_cases.evaluate(run, 'step_100', 0.9, 16, too_long=(0, 2))
  with open(path, encoding='utf-8') as f:
    scores = json.load(f)['scores']['held_out']
  # By hand: the first score is of example 1, the second of example 3.
  first, *rest = [k / w for k, w in zip(scores['kl'], scores['weight'])]
  files = run_files.RunFiles(str(run))
  answers = evaluations.answers(files, 'held_out')['examples']
  shown = [a['models']['student after']['kl'] for a in answers]
  assert shown == [None, first, None, *rest]


def test_damaged_files_are_reported(listener):
  found = _json(listener, '/api/tables?run=bad')
  assert 'damaged' in found['tables'][0]['problem']
  _json(listener, '/api/answers?run=bad&set=held_out')
  documents = _json(listener, '/api/documents')
  assert 'plan.json' in documents['plans'][0]['problem']
  assert documents['caches'][0]['problem'] == 'cache.json is damaged: not JSON'


def test_long_curves_keep_their_extremes():
  series = run_files.Series()
  for step in range(10_000):
    series.steps.append(step)
    series.values.append(100.0 if step == 5001 else step % 7)
  thinned = pages._thinned(series)
  assert len(thinned['steps']) <= 600
  assert thinned['steps'][0] == 0 and thinned['steps'][-1] == 9999
  assert max(thinned['values']) == 100.0


def test_tokens_join_to_the_answer(tmp_path):
  """Tokens within a character are joined; damaged records have no tokens."""
  record = {'answer': 'a🙂b\n'}
  whole = record | {
    'token_kl': [0.5, 1.0, 2.0, None, 0.1, 3.0],
    'token_ends': [1, 1, 2, 3, 4, 4],
  }
  assert answer_tokens.of(whole) == [
    {'text': 'a', 'kl': [0.5]},
    {'text': '🙂', 'kl': [1.0, 2.0]},
    {'text': 'b', 'kl': [None]},
    {'text': '\n', 'kl': [0.1]},
    {'text': '', 'kl': [3.0]},
  ]
  # Cut off at the length of a row, within the character.
  cut = record | {'token_kl': [0.5, 1.0], 'token_ends': [1, 1]}
  assert [t['text'] for t in answer_tokens.of(cut)] == ['a', '🙂b\n']
  for damage in (
    {},
    {'token_ends': [1, 1]},
    {'token_ends': [2, 1, 2, 3, 4, 4]},
    {'token_ends': [1, 1, 2, 3, 4, 5]},
    {'token_ends': [1, 1, 2, None, 4, 4]},
  ):
    kept = whole if damage else record
    assert answer_tokens.of(kept | damage) is None


def test_answers_have_the_kl_of_their_tokens_or_a_reason(tmp_path):
  run = board_cases.write(tmp_path / 'run')
  board_cases.evaluate(run, 'teacher', 0.1, 24)
  board_cases.evaluate(run, 'step_0', 4.6, 0)
  path = board_cases.evaluate(run, 'step_100', 0.9, 16)
  show = lambda: evaluations.answers(run_files.RunFiles(str(run)), 'held_out')
  assert 'evaluation.token_kl' in show()['uncolored']
  with open(path, encoding='utf-8') as f:
    fields = json.load(f)
  del fields['scores']['held_out']['kl']
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(fields, f)
  os.remove(run / 'evaluations' / 'step_0.json')
  assert 'no live teacher' in show()['uncolored']
  board_cases.evaluate(run, 'step_100', 0.9, 16, colored=20)
  shown = show()
  assert shown['uncolored'] == ''
  for i, example in enumerate(shown['examples']):
    assert example['models']['teacher']['tokens'] is None
    student = example['models']['student after']
    if i < 20:
      texts = [token['text'] for token in student['tokens']]
      assert ''.join(texts) == student['answer'] and texts[-1] == ''
    else:
      assert student['tokens'] is None
