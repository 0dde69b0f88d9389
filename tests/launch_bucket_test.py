"""Tests a worker's checks of its bucket before a run starts."""

import http.server
import json
import pathlib
import subprocess
import sys
import threading

import pytest

from tests.fakes import cloud as cloud_lib

SCRIPT = 'launch/worker/bucket.py'


class Storage(http.server.BaseHTTPRequestHandler):
  """Serves the metadata server's token and Cloud Storage's objects.get."""

  def do_GET(self):
    # Whether synced data is stored, which it is not with streaming writes.
    stored = self.server.stored
    if self.path.endswith('/token'):
      assert self.headers['Metadata-Flavor'] == 'Google'
      self.answer(200, {'access_token': 'secret'})
      return
    path, _, query = self.path.partition('?')
    prefix = '/storage/v1/b/bkt/o/.kd-probe-'
    assert (path.startswith(prefix), query) == (True, 'fields=size')
    assert self.headers['Authorization'] == 'Bearer secret'
    if callable(stored):
      stored(self)
    elif stored:
      self.answer(200, {'size': '3'})
    else:
      self.answer(404, {})

  def answer(self, code, value):
    self.send_response(code)
    self.end_headers()
    self.wfile.write(json.dumps(value).encode())

  def log_message(self, *args):
    pass


@pytest.fixture
def storage():
  with http.server.HTTPServer(('127.0.0.1', 0), Storage) as server:
    server.stored = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def check(storage, folder, owner='me', takeover='no', workdir='runs/a'):
  address = f'127.0.0.1:{storage.server_address[1]}'
  done = subprocess.run(
    [
      *(sys.executable, SCRIPT, str(folder), 'bkt', owner, takeover),
      *('--config=c.py', f'--workdir={folder}/{workdir}', '--x=y'),
    ],
    env={
      'GCE_METADATA_HOST': address,
      'STORAGE_EMULATOR_HOST': f'http://{address}',
    },
    check=False,
    text=True,
    capture_output=True,
  )
  return done.returncode, done.stderr


def test_fsynced_files_must_be_in_the_bucket(storage, tmp_path):
  assert check(storage, tmp_path) == (0, '')
  storage.stored = False
  code, err = check(storage, tmp_path, workdir='runs/b')
  assert code == 2
  assert 'mounted with streaming writes' in err
  assert not (tmp_path / 'runs' / 'b').exists()
  # The probe is removed.
  assert [p.name for p in tmp_path.iterdir()] == ['runs']


@pytest.mark.parametrize(
  'answer',
  [
    lambda handler: handler.answer(403, {}),
    lambda handler: handler.answer(200, []),
    lambda handler: handler.answer(200, {'size': None}),
    lambda handler: handler.wfile.write(b'no HTTP\r\n\r\n'),
    lambda handler: handler.wfile.write(
      b'HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{'
    ),
    lambda handler: handler.connection.close(),
  ],
)
def test_unreachable_buckets_are_a_warning(storage, tmp_path, answer):
  storage.stored = answer
  code, err = check(storage, tmp_path)
  assert (code, 'could not be asked' in err) == (0, True), err
  assert 'Traceback' not in err


def test_a_failed_mount_ends_with_1(storage, tmp_path):
  code, err = check(storage, tmp_path / 'no such folder')
  assert code == 1
  assert err.startswith('kd: error: ') and 'No such file' in err
  assert len(err.splitlines()) == 1


def test_a_workdir_has_one_owner(storage, tmp_path):
  assert check(storage, tmp_path, 'tpu:p/z/one') == (0, '')
  # The same slice again, and workers without a claim.
  assert check(storage, tmp_path, 'tpu:p/z/one') == (0, '')
  assert check(storage, tmp_path, '') == (0, '')
  code, err = check(storage, tmp_path, 'gke:c/n/two')
  assert (code, 'belongs to tpu:p/z/one' in err) == (2, True), err
  assert '--takeover=yes' in err
  assert check(storage, tmp_path, 'gke:c/n/two', 'yes') == (0, '')
  assert check(storage, tmp_path, 'gke:c/n/two') == (0, '')
  assert check(storage, tmp_path, 'tpu:p/z/one')[0] == 2
  assert check(storage, tmp_path, 'tpu:p/z/one', workdir='runs/b') == (0, '')


def test_a_second_slice_is_refused_before_it_starts(storage, tmp_path):
  line = ('--', '--config=c.py', '--workdir=/mnt/kd/runs/a')
  with cloud_lib.maker(tmp_path) as make:
    c = make(
      workers=2,
      codes=[[0, 0]],
      lives=[['READY'], ['READY']],
      storage=f'127.0.0.1:{storage.server_address[1]}',
    )
    c.settings.write_text(c.settings.read_text() + 'bucket=gs://bkt\n')
    for name in ('one', 'two'):
      assert c.tpu('create', f'--name={name}')[0] == 0
      assert c.tpu('setup', f'--name={name}')[0] == 0
    for _ in range(2):
      assert c.tpu('run', '--name=one', *line)[0] == 0
      c.wait_for(lambda: c.tpu('status', '--name=one')[1].count('ended 0') == 2)
    starts = len(c.starts())
    code, _, err = c.tpu('run', '--name=two', *line)
    assert code == 2, err
    assert 'belongs to tpu:my-project/us-west4-a/one' in err
    # The run on the other worker is stopped; watch does not retry.
    assert 'running' not in c.tpu('status', '--name=two')[1]
    code, _, err = c.tpu('watch', '--name=two', *line)
    assert code == 2, err
    assert len(c.starts()) <= starts + 2
    assert c.tpu('run', '--name=two', '--takeover=yes', *line)[0] == 0


@pytest.mark.parametrize('index', ['0', '1'])
def test_a_container_checks_its_bucket(storage, tmp_path, index):
  """Runs entry.sh with a fake of the image's Python."""
  calls = tmp_path / 'calls'
  python = tmp_path / 'python'
  python.write_text(f'#!/bin/bash\nprintf "%s|" "$@" >>{calls}\n')
  python.chmod(0o755)
  env = {'PATH': '/usr/bin:/bin', 'KD_PYTHON': str(python)}
  arguments = [
    'bash',
    'launch/worker/entry.sh',
    '--workdir=/mnt/kd/a',
    '--b=c d',
  ]
  subprocess.run(arguments, env=env, check=True)
  main = '-u|-m|kd|--workdir=/mnt/kd/a|--b=c d|'
  assert calls.read_text() == main
  calls.unlink()
  env |= {'KD_BUCKET': 'bkt', 'KD_OWNER': 'gke:a', 'KD_TAKEOVER': 'no'}
  subprocess.run(arguments, env=env | {'TPU_WORKER_ID': index}, check=True)
  owner = 'gke:a' if index == '0' else ''
  assert calls.read_text() == (
    f'{SCRIPT}|/mnt/kd|bkt|{owner}|no|--workdir=/mnt/kd/a|--b=c d|{main}'
  )
  assert pathlib.Path(SCRIPT).exists()
