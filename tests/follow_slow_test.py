"""Tests a server that follows a registry while it answers requests."""

from concurrent import futures
import json
import re
import threading
import time

import pytest

from kd.config import base
from kd.core import paths
from kd.modes import serve as serve_mode
from kd.monitoring import names
from kd.monitoring import webhook_cases
from kd.serving import alarm_bell
from kd.serving import follower as follower_lib
from kd.serving import metrics as metrics_lib
from kd.serving import scheduler as scheduler_lib
from kd.versions import changes
from kd.versions import version_cases
from tests import command
from tests import object_store
from tests import server as server_lib

_PROMPT = {'prompt': 'Q: 1+2=?\nA:\n', 'max_tokens': 8, 'temperature': 0}


class _Registry:
  def __init__(self, inputs, place):
    self.inputs, self.place = inputs, place
    self.folder = paths.expand(place)
    self.settings = base.get_config().registry
    self.report = version_cases.report(inputs, 'ship')
    self.add('a')
    self.promote('v1')

  def add(self, name, scale=1.0):
    model = version_cases.export(self.inputs / name, scale)
    changes.add(self.folder, model, self.report, print)

  def promote(self, version, stage='production'):
    changes.promote(self.folder, self.settings, version, stage, print)


@pytest.fixture
def registry(tmp_path):
  return _Registry(tmp_path, f'{tmp_path}/registry')


@pytest.fixture
def bucket_registry(tmp_path, monkeypatch):
  with object_store.serve_here(monkeypatch) as store:
    yield _Registry(tmp_path, 'gs://bucket/registry'), store


class _Client(threading.Thread):
  """Sends requests continuously and records each reply's status and model."""

  def __init__(self, server):
    super().__init__(daemon=True)
    self._server, self.replies, self.ended = server, [], False
    self.start()

  def run(self):
    while not self.ended:
      status, body, _ = self._server.send('/v1/completions', _PROMPT)
      self.replies.append((status, body.get('model')))

  def until(self, count, *models):
    """Waits until exactly these models sent the last `count` replies."""
    for _ in range(6000):
      last = {model for _, model in self.replies[-count:]}
      if len(self.replies) >= count and last == {*models}:
        return
      time.sleep(0.05)
    raise AssertionError((models, self.replies[-10:], self._server.text))


_FLAGS = (
  '--config.follow.poll_s=0.2',
  '--config.follow.canary_share=0.5',
  '--config.follow.compared_share=1',
  # No version is out of service because of the limits, which are those of the
  # server's alarms here.
  '--config.follow.fewest=1000000',
  '--config.alarms.window_s=30',
  '--config.alarms.for_s=1',
  '--config.alarms.p95_ms=1',
  '--config.alarms.error_rate=0.5',
  '--config.alarms.queue=1e-6',
  '--config.alarms.memory=1e-6',
  '--config.alarms.agreement=0.999',
)


class _Alarms:
  """The alarms that a server posts and logs."""

  def __init__(self, server, posted):
    self._server, self._posted = server, posted

  def states(self, name):
    """Returns the posted states of an alarm, which must alternate."""
    bodies = [json.loads(body) for _, _, body in self._posted]
    found = [x for x in bodies if x['alarm'] == name]
    for x in found:
      assert x['service'] == 'tiny' and x['text'].startswith('kd: tiny: ')
      line = 'alarm: ' + x['text'].removeprefix('kd: tiny: ')
      assert line in self._server.text.splitlines()
      assert (x['advice'] in line) == (x['status'] == 'firing')
    states = [x['status'] for x in found]
    assert states == (['firing', 'resolved'] * len(states))[: len(states)]
    return states

  def until(self, name, count=1):
    """Waits until an alarm has changed its state this many times."""
    self._server.until(lambda: len(self.states(name)) >= count)


def _compared(server):
  """Returns the numbers of compared tokens and of those that agree."""
  text = server.send('/metrics')[1].decode()
  return [
    float(re.search(rf'^{name} (\S+)$', text, re.M)[1])
    for name in (names.COMPARED_TOKENS, names.AGREEING_TOKENS)
  ]


def _fill_queue(server):
  """Sends more requests at a time than the batch and the queue contain."""
  request = {**_PROMPT, 'n': 4, 'max_tokens': 100}
  with futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda _: server.send('/v1/completions', request), range(8)))


def test_versions_are_switched_without_losing_requests(bucket_registry):
  registry, store = bucket_registry
  with (
    webhook_cases.receiver(200) as (url, posted),
    server_lib.running(
      'serve',
      f'tiny={registry.place}',
      # The teacher is the model itself and agrees with all tokens.
      f'--config.follow.teacher={registry.inputs}/a',
      f'--config.alarms.webhook={url}',
      *_FLAGS,
    ) as server,
  ):
    alarms = _Alarms(server, posted)
    # Requests get status 503 while programs are compiled.
    refused = lambda: server.send('/v1/completions', _PROMPT)[0] == 503
    server.until(lambda: refused() and alarms.states('KdErrors'))
    server.wait_until_ready()
    client = _Client(server)
    client.until(3, 'tiny@v1')
    server.until(lambda: _compared(server)[0] > 20)
    compared, agreeing = _compared(server)
    assert agreeing == compared and not alarms.states('KdDrift')
    registry.add('b', scale=-8.0)
    registry.promote('v2')
    client.until(3, 'tiny@v2')
    # Its other weights choose other tokens than the teacher.
    alarms.until('KdDrift')
    # Nonfinite logits are noticed before any request.
    registry.add('c', scale=3e38)
    registry.promote('v3')
    server.until(lambda: 'alarm: cannot switch to v3: logits' in server.text)
    client.until(3, 'tiny@v2')
    # Answers continue while the bucket cannot be read.
    store.forbidden = 'registry'
    server.until(lambda: 'alarm: cannot follow the registry' in server.text)
    count = len(client.replies) + 3
    server.until(lambda: len(client.replies) > count)
    assert server.text.count('follow the registry') == 1
    store.forbidden = ''
    server.until(lambda: 'alarm: can follow the registry' in server.text)
    changes.rollback(registry.folder, 'production', print)
    registry.add('d')
    registry.promote('v4', 'canary')
    client.until(8, 'tiny@v2', 'tiny@v4')
    changes.rollback(registry.folder, 'canary', print)
    changes.rollback(registry.folder, 'production', print)
    client.until(8, 'tiny@v1')
    # A version can also be requested by name.
    listed = [x['id'] for x in server.send('/v1/models')[1]['data']]
    assert listed[:2] == ['tiny', 'tiny@v1']
    client.ended = True
    client.join()
    text = server.send('/metrics')[1].decode()
    assert f'{names.VERSION}{{stage="production",version="v1"}} 1.0' in text
    statuses = {status for status, _ in client.replies}
    assert statuses == {200} and len(client.replies) > 20
    while not alarms.states('KdQueue'):
      _fill_queue(server)
    alarms.until('KdErrors', 2)
    alarms.until('KdLatency')
    assert alarms.states('KdMemory') == ['firing']


@pytest.fixture
def followed(registry):
  """A follower of v2 with fallback v1, run in the test's thread."""
  registry.add('b')
  config = base.get_config()
  config.serve.update(max_batch=2, max_length=64, timeout_ms=600_000)
  config.follow.update(probe_s=1e-9, probes=2)
  config.alarms.p95_ms = 600_000.0
  said = []
  load = lambda name, place: serve_mode._load(name, place, config)
  bell = alarm_bell.AlarmBell('', 'tiny', said.append)
  with command.compiled_once():
    metrics = metrics_lib.Metrics()
    follower = follower_lib.Follower(
      registry.folder, 'tiny', config, load, bell, metrics
    )
    scheduler = scheduler_lib.Scheduler(
      follower.models, 4, metrics, print, lambda: None
    )
    scheduler.start()
    while scheduler.state == scheduler_lib.COMPILING:
      time.sleep(0.05)
    follower._scheduler = scheduler
    registry.promote('v2')
    follower._update()
    yield follower, said
    scheduler.close()
    scheduler.join(60)


def test_unhealthy_versions_are_out_of_service_until_probes_pass(followed):
  follower, said = followed
  router = follower.router
  answers = lambda: router.pick('tiny').name
  assert said == ['tiny: switched from v1 to v2']
  assert answers() == 'tiny@v2'
  follower._watch()
  assert answers() == 'tiny@v2'
  router.note(router.pick('tiny'), 500, None, 'its logits are NaN')
  follower._watch()
  taken_out = 'tiny@v2 (production) is out of service: its logits are NaN'
  assert taken_out in said[-1]
  assert said[-1].endswith('requests now go to tiny@v1')
  # One probe has passed, but two are required.
  assert answers() == 'tiny@v1'
  follower._watch()
  assert said[-1] == 'alarm: tiny@v2 has recovered: 2 probes in a row passed'
  assert answers() == 'tiny@v2'
  # If no version is healthy, the registry's production version answers.
  for version in ('tiny@v1', 'tiny@v2'):
    router.note(router.pick(version), 500, None, 'NaN')
  follower._config.follow.probe_s = 1e9
  follower._watch()
  assert answers() == 'tiny@v2'
