"""Tests that each check, and no other one, fails on its planted fault."""

import contextlib
import dataclasses
from http import server
import json
import os
import re
import shutil
import socket
import threading

import gguf
import numpy as np
import pytest

from kd.config import base
from kd.deployment import checks
from kd.deployment import packages
from kd.monitoring import rules
from kd.versions import model_files
from kd.versions import version_cases


class _Monitor(server.BaseHTTPRequestHandler):
  """Prometheus, and a webhook behind /hook."""

  def do_GET(self):
    groups = [{'rules': [{'name': name} for name in self.server.rules]}]
    body = json.dumps({'status': 'success', 'data': {'groups': groups}})
    self._answer(200, body.encode())

  def do_POST(self):
    body = self.rfile.read(int(self.headers['Content-Length']))
    self.server.posted.append(json.loads(body))
    self._answer(self.server.status)

  def _answer(self, status, body=b''):
    self.send_response(status)
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *unused):
    del unused


@pytest.fixture
def monitor():
  with server.HTTPServer(('127.0.0.1', 0), _Monitor) as s:
    s.rules = [a.name for a in rules.alarms(base.get_config())]
    s.posted, s.status = [], 200
    thread = threading.Thread(target=s.serve_forever)
    thread.start()
    yield s
    s.shutdown()
    thread.join()


@pytest.fixture
def target(tmp_path, monitor):
  config = base.get_config()
  config.serve.port = 0
  config.serve.max_length = 128
  config.serve.max_batch = 2
  config.deploy.cpus = 1.0
  url = f'http://127.0.0.1:{monitor.server_port}'
  config.alarms.prometheus, config.alarms.webhook = url, f'{url}/hook'
  model = version_cases.export(tmp_path / 'model')
  return _target(config, model)


def _target(config, model):
  init, files, problems = model_files.exported(model)
  return checks.Target(config, init, tuple(problems), files)


def _failing(target):
  """Returns the lines of failed checks; all checks run, in order."""
  findings = list(checks.run(target))
  assert [f.name for f in findings] == list(target.config.deploy.checks)
  assert all(f.passed or f.advice for f in findings)
  return {f.name: f.line() for f in findings if not f.passed}


def test_a_correct_deployment_passes(target, monitor):
  assert not _failing(target)
  (alarm,) = monitor.posted
  assert alarm['text'].startswith('kd: test alarm of kd-serve from ')


_FAULTS = [
  ('memory', {'serve.max_batch': 2**40}, 'GiB needed.*GiB free; lower serve'),
  ('hardware', {'deploy.devices': 'google.com/tpu=4'}, 'asks for google.com'),
  ('hardware', {'deploy.cpus': 1024.0}, 'CPUs, and deploy.cpus is 1024'),
  ('configs', {'serve.host': '0.0.0.0'}, 'there is no API key; set KD_API_KEY'),
  ('configs', {'alarms.p95_ms': 3000.0}, 'lower alarms.p95_ms'),
  ('configs', {'deploy.min_replicas': 11}, 'raise deploy.max_replicas'),
  ('data', {'data.mixture': (('a.jsonl', 0.0),)}, 'has the rate 0 for all'),
  ('data', {'evaluation.sets.held_out.mixture': 'none.jsonl'}, 'none.jsonl'),
  ('monitoring', {'alarms.prometheus': ''}, 'is not set; set it to the URL'),
  ('alarms', {'alarms.webhook': ''}, 'is not set; set it to the URL'),
]


@pytest.mark.parametrize(('name', 'changes', 'line'), _FAULTS)
def test_faults_of_the_config(target, name, changes, line, monkeypatch):
  monkeypatch.delenv('KD_API_KEY', raising=False)
  target.config.update_from_flattened_dict(changes)
  failing = _failing(target)
  assert list(failing) == [name]
  assert re.search(line, failing[name]), failing


def test_faults_outside_the_config(target, monitor, monkeypatch):
  monitor.rules.remove('KdQueue')
  monitor.status = 500
  with contextlib.closing(socket.create_server(('127.0.0.1', 0))) as taken:
    target.config.serve.port = taken.getsockname()[1]
    failing = _failing(target)
  assert list(failing) == ['ports', 'monitoring', 'alarms']
  assert 'lacks the alarms KdQueue; load alarms.yaml' in failing['monitoring']
  assert 'was not delivered: status 500' in failing['alarms']
  target.config.serve.port = 0
  monitor.rules.append('KdQueue')
  monitor.status = 200
  folder = target.init.partition(':')[2]
  with open(os.path.join(folder, 'tokenizer.model'), 'ab') as f:
    f.write(b'x')
  failing = _failing(_target(target.config, folder))
  assert 'digests' in failing and 'tokenizer.model' in failing['digests']


def test_packages_are_compared_with_the_lock(tmp_path, monkeypatch):
  lines, count = packages.differences()
  assert count > 50 and not lines
  lock = tmp_path / packages.SOURCE
  lock.write_text(
    'absl-py==0.0.1 \\\n    --hash=sha256:00\nno-such-package==1.0 \\\n'
    'only-elsewhere==1.0 ; sys_platform == "win32" \\\n'
  )
  monkeypatch.setattr(packages.paths, 'project_folder', lambda: str(tmp_path))
  lines, count = packages.differences()
  assert count == 3
  assert [line.split()[0] for line in lines] == ['absl-py', 'no-such-package']


def test_a_split_model_needs_the_space_of_all_its_files(
  target, tmp_path, monkeypatch
):
  path = tmp_path / 'split.gguf'
  writer = gguf.GGUFWriter(path, 'gemma3', split_max_tensors=1)
  for name in 'ab':
    writer.add_tensor(name, np.zeros(1000, np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  first = tmp_path / 'split-00001-of-00002.gguf'
  split = dataclasses.replace(target, init=f'gguf:{first}')
  target.config.deploy.checks = ('disk',)
  real = shutil.disk_usage

  def usage(folder):
    full = real(folder)
    return full._replace(free=7000) if folder == str(tmp_path) else full

  monkeypatch.setattr(shutil, 'disk_usage', usage)
  assert list(_failing(split)) == ['disk']
