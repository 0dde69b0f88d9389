"""Tests the board in a browser: themes, keyboard, 390 px, an active run."""

import contextlib
from http import server as http_server
import json
import os
import shutil
import subprocess
import threading

import pytest

from kd.board import board_cases
from kd.board import database
from kd.board import pages
from kd.board import server
from kd.reasoning.trees import tree
from kd.run import lock

_BAD = '<img src=x onerror=alert(1)>'


def _browser():
  """Returns the Python with playwright and the path of Chromium, or skips."""
  python = os.environ.get('KD_BROWSER_PYTHON')
  chromium = shutil.which('chromium')
  if not python:
    pytest.skip('KD_BROWSER_PYTHON names no Python with playwright')
  if not chromium:
    pytest.skip('there is no chromium; Debian: apt-get install chromium')
  return python, chromium


@contextlib.contextmanager
def _serving(listener):
  thread = threading.Thread(target=listener.serve_forever, daemon=True)
  thread.start()
  try:
    yield f'http://127.0.0.1:{listener.server_address[1]}/'
  finally:
    listener.shutdown()
    listener.server_close()


class _Model(http_server.BaseHTTPRequestHandler):
  """Streams an answer like an OpenAI-compatible server."""

  words = ()

  def do_GET(self):  # noqa: N802
    self._send('application/json', [json.dumps({'data': [{'id': 'm'}]})])

  def do_POST(self):  # noqa: N802
    body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    assert body['messages'][-1] == {'role': 'user', 'content': 'What is 2+2?'}
    deltas = [{'choices': [{'delta': {'content': w}}]} for w in self.words]
    lines = [f'data: {json.dumps(d)}\n\n' for d in deltas]
    self._send('text/event-stream', [*lines, 'data: [DONE]\n\n'])

  def _send(self, kind, parts):
    self.send_response(200)
    self.send_header('Content-Type', kind)
    self.end_headers()
    for part in parts:
      self.wfile.write(part.encode())
      self.wfile.flush()

  def log_message(self, *args):
    pass


def _model(*words):
  handler = type('Model', (_Model,), {'words': words})
  return _serving(http_server.ThreadingHTTPServer(('127.0.0.1', 0), handler))


def _write_tree(folder):
  (folder / 'trees').mkdir(parents=True)
  (folder / 'search.json').write_text('{"problem": "game24"}')
  nodes = [
    tree.Node(0, -1, 0, '', status='expanded'),
    tree.Node(1, 0, 1, '4 * 6 = 24', 1.0, 'solution'),
    tree.Node(2, 0, 1, _BAD, 0.1, 'pruned'),
  ]
  found = tree.Tree('instance-1', '4 6', '24', nodes)
  (folder / 'trees' / 'instance-1.json').write_text(found.to_json())


def _write(root):
  """Writes 200 finished runs, an active run and a tree."""
  for i in range(200):
    peak = (1e-4, 3e-4)[i % 2]
    fields = board_cases.config(steps=100, optimizer__lr__peak=peak)
    board_cases.write(root / f'r{i:03}', fields, scale=1 + i / 100)
  run = root / 'r000'
  board_cases.evaluate(run, 'teacher', 0.1, 24)
  board_cases.evaluate(run, 'step_0', 4.6, 0)
  path = board_cases.evaluate(run, 'step_100', 0.9, 16, colored=12)
  board_cases.evaluate(run / 'baseline', 'step_100', 1.2, 9, colored=12)
  answers = path.replace('.json', '.answers.jsonl')
  with open(answers, encoding='utf-8') as f:
    text = f.read()
  with open(answers, 'w', encoding='utf-8') as f:
    f.write(text.replace('#### 4"', f'#### {_BAD}"'))
  # A run of an earlier version, without the KL of tokens.
  board_cases.evaluate(root / 'r001', 'teacher', 0.1, 24)
  board_cases.evaluate(root / 'r001', 'step_100', 0.9, 16)
  _write_tree(root / 'search')
  fields = board_cases.config(steps=400)
  return board_cases.write(root / 'now', fields, steps=60, ended=False)


def test_the_page_in_chromium(tmp_path):
  python, chromium = _browser()
  running = _write(tmp_path / 'runs')
  lines = ''.join(board_cases.at(65))
  db = database.Database([str(tmp_path / 'runs')])
  with (
    lock.hold(str(running), '--workdir'),
    _model('four', '!') as first,
    _model('It is ', '4.') as second,
  ):
    models = [f'{url}v1' for url in (first, second)]
    listener = server.bind(pages.Pages(db, database.Query(), models), models, 0)
    with _serving(listener) as url:
      done = subprocess.run(
        [
          *(python, 'tests/board_page.py', chromium, url),
          *(str(running / 'metrics.jsonl'), lines),
          *filter(None, [os.environ.get('KD_BOARD_PICTURES')]),
        ],
        capture_output=True,
        text=True,
        timeout=300,
      )
  assert done.returncode == 0, done.stderr
  seen = json.loads(done.stdout)
  assert seen['errors'] == [] and seen['foreign'] == []
  assert seen['count'] == '201 runs; lowest eval/held_out/nll'
  assert seen['charts'] == 6
  assert 'config.optimizer.lr.peak' in seen['refusal']
  assert seen['rows'] == 1
  assert 'malformed' in seen['bad_address']
  assert (seen['sort'], seen['first']) == ('age_s', 'now')
  # The keyboard reaches every control, and the focus is visible.
  assert seen['skipped_to'] == 'main'
  assert [x for x, _ in seen['reached']][:3] == ['where', 'metric', 'sort']
  assert 'none' not in [outline for _, outline in seen['reached']]
  assert seen['readout'].startswith('step 75')
  assert seen['kept_focus'] == 'checkbox'
  assert seen['intervals'] == 12
  assert seen['images'] == 0
  # Token by token, the texts are those of the files.
  assert seen['texts'] == seen['recorded']
  assert f'0+7=7 #### {_BAD}' in seen['texts']
  assert seen['departed'] == [' <', _BAD[1:]]
  assert len(set(seen['colors'])) > 2
  assert seen['pointed'] == '6 of 7: " 6" KL 0.4'
  assert seen['key'] == '7 of 7: end of the answer KL 0.001'
  assert seen['left'] == ''
  assert 'arrow keys' in seen['named']
  assert 'Tokens have no color: evaluation.token_kl' in seen['earlier']
  assert seen['earlier_marked'] == ['37', '39', '41', '43']
  assert 'student after' in seen['answers']
  assert '4 * 6 = 24' in seen['tree'] and _BAD in seen['tree']
  assert seen['chat'] == ['four!', 'It is 4.']
  narrow = {k: v for k, v in seen['widths'].items() if k.endswith('-390')}
  assert len(narrow) == 5 and max(narrow.values()) <= 390, narrow
  assert min(seen['contrast'].values()) >= 4.5, seen['contrast']
