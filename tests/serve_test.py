"""Tests kd serve over HTTP against the model of kd.load."""

from concurrent import futures
import json
import re
import shutil
import signal
import subprocess

import numpy as np
from prometheus_client import parser
import pytest

import kd
from kd.config import base
from kd.core import errors
from kd.core import types
from kd.modes import serve
from kd.monitoring import webhook_cases
from tests import command
from tests import served_runs
from tests import server as server_lib

CHAT, COMPLETIONS = '/v1/chat/completions', '/v1/completions'
_ASKED = 'Q: 30-4=?\nA:\n'


@pytest.fixture(name='webhook', scope='module')
def _webhook():
  with webhook_cases.receiver(200) as pair:
    yield pair


@pytest.fixture(name='server', scope='module')
def _server(webhook):
  flags = (
    f'--config.alarms.webhook={webhook[0]}',
    '--config.alarms.window_s=30',
    '--config.alarms.for_s=0',
    '--config.alarms.p95_ms=1',
    '--config.alarms.memory=1e-6',
  )
  with server_lib.running(flags=flags) as server:
    # Until all programs are compiled, requests get status 503.
    status, body, headers = server.send(CHAT, _chat('x'))
    if 'ready after' not in server.text:
      assert status == 503 and headers['retry-after'], body
    server.wait_until_ready()
    yield server


@pytest.fixture(name='model', scope='module')
def _model():
  with command.compiled_once():
    yield kd.load(server_lib.MODEL)


def _chat(text, **fields):
  return {'messages': [{'role': 'user', 'content': text}], **fields}


def _choices(reply):
  status, body, _ = reply
  assert status == 200, body
  return [
    (c['message']['content'] if 'message' in c else c['text'])
    for c in body['choices']
  ]


def test_answers_equal_generates_in_any_batch(server, model):
  settings = [
    dict(temperature=0.0, max_tokens=20),
    dict(temperature=3.0, seed=5, n=3, max_tokens=30),
    dict(temperature=1.4, top_p=0.8, seed=1, max_tokens=60),
    dict(temperature=4.0, min_p=0.01, seed=2**32 - 1, n=2, max_tokens=9),
    dict(temperature=0.5, seed=3, max_tokens=40, stop=[' ', '2=']),
  ]
  texts = [f'Q: {i}+{17 * i}=?\nA:\n' for i in range(len(settings))]
  send = lambda text, fields: server.send(CHAT, _chat(text, **fields))
  alone = [_choices(send(*pair)) for pair in zip(texts, settings)]
  with futures.ThreadPoolExecutor(3) as pool:
    # Three at a time, so that waiting requests fit in the queue.
    together = list(pool.map(send, texts * 3, settings * 3))
  assert [_choices(reply) for reply in together] == alone * 3
  names = {'max_tokens': 'max_new_tokens', 'n': 'samples'}
  for text, fields, answers in zip(texts, settings, alone):
    asked = {names.get(k, k): v for k, v in fields.items() if k != 'stop'}
    asked['stop_strings'] = tuple(fields.get('stop', ()))
    (samples,) = model.generate([text], **asked)
    assert answers == [sample.text for sample in samples]
  assert len({answer for answers in alone for answer in answers}) == 8
  # Several prompts in one request match several prompts of generate.
  many = dict(prompt=texts[:2], n=2, seed=7, temperature=1.0, max_tokens=12)
  found = model.generate(
    texts[:2], samples=2, seed=7, temperature=1.0, max_new_tokens=12
  )
  wanted = [sample.text for samples in found for sample in samples]
  assert _choices(server.send(COMPLETIONS, many)) == wanted


def _events(lines):
  """Returns the chunks of a stream and checks its end."""
  data = [x.decode().removeprefix('data: ').strip() for x in lines if x.strip()]
  assert data.pop() == '[DONE]'
  return [json.loads(x) for x in data]


def test_streams_equal_whole_answers(server):
  asked = dict(temperature=1.0, seed=4, n=2, max_tokens=24, logprobs=True)
  whole = server.send(CHAT, _chat(_ASKED, **asked))[1]
  asked |= dict(stream=True, stream_options={'include_usage': True})
  response = server.open(CHAT, _chat(_ASKED, **asked))
  assert response.getheader('content-type').startswith('text/event-stream')
  *chunks, last = _events(response.readlines())
  assert last['choices'] == [] and last['usage'] == whole['usage']
  for index, choice in enumerate(whole['choices']):
    parts = [c['choices'][0] for c in chunks]
    parts = [part for part in parts if part['index'] == index]
    assert parts[0]['delta'] == {'role': 'assistant', 'content': ''}
    text = ''.join(part['delta'].get('content', '') for part in parts)
    assert text == choice['message']['content'] and len(parts) > 4
    told = [part['logprobs'] or {'content': []} for part in parts]
    tokens = sum((logprobs['content'] for logprobs in told), [])
    wanted = choice['logprobs']['content']
    assert [t['token'] for t in tokens] == [t['token'] for t in wanted]
    # Batches of different sizes round differently.
    np.testing.assert_allclose(
      [t['logprob'] for t in tokens], [t['logprob'] for t in wanted], atol=1e-4
    )
    ends = [part['finish_reason'] for part in parts]
    assert ends == [None] * (len(ends) - 1) + [choice['finish_reason']]


@pytest.mark.skipif(not shutil.which('curl'), reason='curl is not there')
def test_curl_streams_a_completion(server):
  body = dict(prompt=_ASKED, max_tokens=8, temperature=0, echo=True)
  body['stream'] = True
  out = subprocess.run(
    ['curl', '-sN', f'http://127.0.0.1:{server.port}{COMPLETIONS}']
    + ['-H', f'Authorization: Bearer {server_lib.KEY}']
    + ['-d', json.dumps(body)],
    check=True,
    capture_output=True,
  ).stdout
  chunks = _events(out.splitlines())
  text = ''.join(chunk['choices'][0]['text'] for chunk in chunks)
  body['stream'] = False
  assert [text] == _choices(server.send(COMPLETIONS, body))
  assert text.startswith(_ASKED)


def _negative_logprobs(model, ids):
  """Returns -log p of each id after the first, in float64, without padding."""
  module, count = model._model.module, len(ids)
  tokens = np.asarray([ids], np.int32)
  batch = types.Batch(
    tokens=tokens,
    targets=tokens,
    positions=np.arange(count, dtype=np.int32)[None],
    segment_ids=np.ones_like(tokens),
    parts=tokens,
    weights=np.ones(tokens.shape, np.float32),
    row_id=np.zeros(1, np.int32),
  )
  hidden, _ = module.forward(model._params, batch, types.TapSpec((), ()))
  table = np.asarray(module.unembedding(model._params), np.float64)
  # The model has more rows than its tokenizer has ids.
  real = table[: model._run.tokenizer.vocab_size]
  logits = np.asarray(hidden[0], np.float64) @ real.T
  normalizers = np.log(np.exp(logits).sum(-1))
  return (normalizers - logits[np.arange(count), [*ids[1:], 0]])[:-1]


def test_prompts_are_scored(server, model):
  """Requests are like lm-eval's: ids, echo, logprobs, and one token or none."""
  texts = [_ASKED + '26', 'Q: 1+2=?\nA:\n1+2=3']
  tokenizer = model._run.tokenizer
  prompts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
  for count in (0, 1):
    status, body, _ = server.send(
      COMPLETIONS,
      dict(prompt=prompts, echo=True, logprobs=1, max_tokens=count),
    )
    assert status == 200, body
    for choice, ids in zip(body['choices'], prompts):
      told = choice['logprobs']
      # A stop id counts as a token.
      assert len(told['tokens']) == len(ids) + count
      logprobs = told['token_logprobs'][: len(ids)]
      assert logprobs[0] is None and told['top_logprobs'][0] is None
      np.testing.assert_allclose(
        logprobs[1:], -_negative_logprobs(model, ids), atol=1e-3
      )
      for token, logprob, best in zip(
        told['tokens'][1:], logprobs[1:], told['top_logprobs'][1:]
      ):
        assert best[token] == logprob
        assert len(best) <= 2 and max(best.values()) >= logprob
    assert body['usage']['completion_tokens'] == 2 * count


def _refused(server, path, body):
  status, reply, _ = server.send(path, body)
  error = reply['error']
  return status, error['param'], error['message']


def test_served_targets_equal_live_ones(server, tmp_path, monkeypatch):
  """Compares --mode=cache and training at the same K."""
  monkeypatch.setenv('KD_TEACHER_KEY', server_lib.KEY)
  served_runs.check_targets(server.port, tmp_path)


def test_servers_write_data_for_students(server, tmp_path, monkeypatch):
  """The answers equal those of generate; the kept ones are trained on."""
  monkeypatch.setenv('KD_TEACHER_KEY', server_lib.KEY)
  served_runs.check_answers(server.port, tmp_path)


@pytest.mark.parametrize(
  ('path', 'body', 'status', 'field', 'message'),
  (
    (CHAT, _chat('x', temprature=1), 400, 'temprature', "'temperature'?"),
    (CHAT, _chat('x', temperature=-1), 400, 'temperature', '0 or more'),
    (CHAT, _chat('x', n=5), 400, 'n', '1 to 4'),
    (CHAT, _chat('x', model='tinny'), 404, 'model', "mean 'tiny'"),
    (CHAT, _chat('x', max_tokens=128), 400, 'messages', 'at most 128 together'),
    (CHAT, _chat('x', tools=[{}]), 400, 'tools', 'not supported'),
    (CHAT, _chat('x', top_logprobs=1), 400, 'top_logprobs', 'logprobs true'),
    (CHAT, {'messages': []}, 400, 'messages', 'found []'),
    (
      CHAT,
      {'messages': [{'role': 'usr', 'content': 'x'}]},
      400,
      'messages[0].role',
      "mean 'user'",
    ),
    (
      CHAT,
      {'messages': [{'role': 'user', 'content': [{'type': 'image_url'}]}]},
      400,
      'messages[0].content[0]',
      'the model reads no images',
    ),
    (COMPLETIONS, {}, 400, 'prompt', 'not given'),
    (COMPLETIONS, {'prompt': [1, 9999]}, 400, 'prompt[1]', 'a token id, 0 to'),
    (COMPLETIONS, {'prompt': [[1], True]}, 400, 'prompt[1]', 'found True'),
    (COMPLETIONS, {'prompt': ['a'] * 5}, 400, 'prompt', 'at most 4 answers'),
    (COMPLETIONS, {'prompt': 'a', 'stop': ['']}, 400, 'stop[0]', "found ''"),
    (COMPLETIONS, {'prompt': 'a', 'max_tokens': 0}, 400, 'max_tokens', '1 or'),
    (COMPLETIONS, {'prompt': 'a', 'best_of': 3}, 400, 'best_of', 'as n'),
    (COMPLETIONS, b'{"prompt": ', 400, 'body', 'is not JSON'),
    (COMPLETIONS, {'prompt': 'a' * 5000}, 413, None, 'more than 4000 bytes'),
  ),
)
def test_wrong_requests_are_named(server, path, body, status, field, message):
  found = _refused(server, path, body)
  assert found[:2] == (status, field) and message in found[2], found


def test_requests_without_the_key_are_refused(server):
  for key in ('', 'another'):
    for path, body in ((CHAT, _chat('x')), ('/v1/models', None)):
      status, reply, _ = server.send(path, body, key)
      assert status == 401 and reply['error']['code'] == 'invalid_api_key'
  assert server.send(CHAT, _chat('x'), 'schl\xfcssel')[0] == 401
  assert server.send('/health', key='')[:2] == (200, {'status': 'ok'})
  for path, body, status in (('/v2', None, 404), (CHAT, None, 405)):
    reply = server.send(path, body)
    assert reply[0] == status and path in reply[1]['error']['message']
  (entry,) = server.send('/v1/models')[1]['data']
  assert (entry['id'], entry['max_model_len']) == ('tiny', 128)


def _metrics(server):
  text = server.send('/metrics', key='')[1].decode()
  return {
    (sample.name, *sample.labels.values()): sample.value
    for family in parser.text_string_to_metric_families(text)
    for sample in family.samples
  }


def _wait_until_idle(server):
  server.until(
    lambda: (
      _metrics(server)['kd_running_answers', 'tiny'] == 0
      and _metrics(server)['kd_waiting_prompts', 'tiny'] == 0
    )
  )


def _ended(server, code):
  key = ('kd_requests_total', str(code), CHAT, 'tiny')
  return _metrics(server).get(key, 0)


def test_late_and_abandoned_requests_free_their_slots(server):
  long = dict(n=4, max_tokens=110, temperature=1.5)
  late = server.send(CHAT, _chat('x', timeout_ms=1, **long))
  assert late[0] == 504 and late[1]['error']['code'] == 'timeout'
  _wait_until_idle(server)
  before = _ended(server, 499)
  for fields in (dict(stream=True), dict()):
    # The fourth answer is long enough to be abandoned.
    connection = server.connect(CHAT, _chat('y', **long, **fields))
    if fields:
      connection.getresponse().readline()
    connection.close()
  server.until(lambda: _ended(server, 499) == before + 2)
  _wait_until_idle(server)
  short = _chat(_ASKED, temperature=0, max_tokens=4)
  assert server.send(CHAT, short)[0] == 200


def test_full_queues_refuse_with_a_retry_time(server):
  asked = _chat('z', n=4, max_tokens=100, temperature=1.5)
  before = _ended(server, 429)
  with futures.ThreadPoolExecutor(12) as pool:
    replies = list(pool.map(lambda _: server.send(CHAT, asked), range(12)))
  statuses = [status for status, _, _ in replies]
  assert set(statuses) == {200, 429} and statuses.count(200) >= 3
  for status, body, headers in replies:
    if status == 429:
      assert int(headers['retry-after']) >= 1
      assert 'limit is 2' in body['error']['message']
    else:
      assert len(body['choices']) == 4
  _wait_until_idle(server)
  found = _metrics(server)
  assert _ended(server, 429) - before == statuses.count(429)
  assert found['kd_ready',] == 1
  assert found['kd_first_token_seconds_count', 'tiny'] > 20
  assert found['process_resident_memory_bytes',] > 1e8


def test_servers_without_a_registry_post_alarms(server, webhook):
  server.send(CHAT, _chat(_ASKED, max_tokens=4))
  raised = lambda: {json.loads(body)['alarm'] for _, _, body in webhook[1]}
  server.until(lambda: {'KdLatency', 'KdMemory'} <= raised())


def test_sigterm_ends_the_server_after_running_requests(server):
  """This must be the last test, since it ends the server."""
  body = _chat(_ASKED, stream=True, max_tokens=100, temperature=1.5, seed=1)
  whole = _choices(server.send(CHAT, {**body, 'stream': False}))
  response = server.open(CHAT, body)
  first = response.readline()
  server.process.send_signal(signal.SIGTERM)
  chunks = _events([first, *response.readlines()])
  text = ''.join(c['choices'][0]['delta'].get('content', '') for c in chunks)
  assert [text] == whole
  assert server.process.wait(60) == 0
  assert server.text.endswith('\nstopped\n')
  # The log does not contain prompts or answers.
  assert _ASKED.strip() not in server.text
  assert re.search(r'/v1/chat/completions 200 [\d.]+ s tiny \d+', server.text)


def test_models_are_named_by_argument_or_path(tmp_path):
  folder = tmp_path / 'a=b'
  folder.mkdir()
  words = [str(folder), 'x=hf:run/export', 'gguf:dir/m.gguf', 'dir/n.gguf']
  assert serve._by_name(words) == {
    'a=b': str(folder),
    'x': 'hf:run/export',
    'm': 'gguf:dir/m.gguf',
    'n': 'dir/n.gguf',
  }
  for wrong in (['a/m', 'b/m'], ['=m'], []):
    with pytest.raises(errors.ConfigError, match='command line'):
      serve._by_name(wrong)


def test_other_machines_need_a_key(monkeypatch):
  monkeypatch.delenv('KD_API_KEY', raising=False)
  config = base.get_config()
  config.serve.host = '0.0.0.0'
  with pytest.raises(errors.ConfigError, match='serve.host.*KD_API_KEY'):
    serve.main(config, None, [server_lib.MODEL])
