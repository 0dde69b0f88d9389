"""Tests folders in buckets with a local object store."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading

import fsspec
import jax
import numpy as np
import pytest

from kd.checkpoints import peft
from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.core import object_files
from kd.core import objects
from kd.core import paths
from kd.data_files import source
from kd.input_pipeline import file_digests
from kd.input_pipeline import file_tasks
from kd.input_pipeline import task_code
from kd.input_pipeline import task_files
from kd.models import families
from kd.models import lora
from kd.models import model_cases
from kd.modes import export
from kd.run import lease
from kd.run import lock
from tests import object_store


@pytest.fixture(params=['gs', 's3'])
def bucket(request, monkeypatch):
  """A store, and the URL of an empty folder in its bucket."""
  with object_store.serve_here(monkeypatch) as store:
    yield store, f'{request.param}://bucket/run'


def test_objects_are_complete_despite_faults(bucket):
  store, url = bucket
  store.inject(object_store.FAULTS)
  written = {f'{url}/{i:02}': os.urandom(2000) for i in range(60)}
  for name, data in written.items():
    assert objects.write(name, data)
  read = dict(objects.read_changed(dict.fromkeys(written)))
  assert {name: x.data for name, x in read.items()} == written
  assert not store.faults_left
  # The listing has several pages and excludes a folder with the same prefix.
  objects.write(f'{url}2/a', b'')
  assert objects.names(url) == [f'{i:02}' for i in range(60)]
  objects.remove_folder(url)
  assert store.names('bucket') == ['run2/a']


def test_refused_requests_are_user_errors(bucket):
  store, url = bucket
  missing = url.replace('bucket', 'other-bucket')
  with pytest.raises(FileNotFoundError):
    objects.write(f'{missing}/a', b'')
  store.forbidden = '/'
  with pytest.raises(PermissionError) as e:
    objects.read(f'{url}/a')
  assert e.value.filename == f'{url}/a'


def test_epath_reads_and_writes_objects(bucket):
  from etils import epath

  object_files.register()
  for name in ('gs', 's3'):  # Other libraries' implementations are kept.
    assert 'kd' not in str(fsspec.registry.get(name))
  folder = epath.Path(bucket[1]) / 'a'
  assert not folder.exists()
  folder.mkdir(parents=True)
  assert folder.is_dir() and not list(folder.iterdir())
  (folder / 'b.txt').write_text('é')
  (folder / 'c' / 'd').write_bytes(b'1')
  assert sorted(p.name for p in folder.iterdir()) == ['b.txt', 'c']
  assert [p.name for p in folder.glob('*.txt')] == ['b.txt']
  assert (folder / 'b.txt').read_text() == 'é' and (folder / 'c').is_dir()
  assert not (folder / 'b.txt').is_dir() and not (folder / 'b').exists()
  for mode in ('w', 'wb'):
    # A partial write does not replace the file.
    with pytest.raises(KeyError), (folder / 'b.txt').open(mode) as f:
      f.write('half' if mode == 'w' else b'half')
      raise KeyError
    f = (folder / 'b.txt').open(mode)
    f.write('half' if mode == 'w' else b'half')
    del f
    assert (folder / 'b.txt').read_text() == 'é'
  (folder / 'b.txt').unlink()
  with pytest.raises(FileNotFoundError):
    (folder / 'b.txt').read_text()
  (folder / 'commit_success.txt').write_text('')
  del bucket[0].removals[:]
  folder.rmtree()
  assert bucket[0].removals[0] == 'run/a/commit_success.txt'
  assert bucket[0].names('bucket') == []


def test_files_are_uploaded_in_the_order_of_writing(bucket):
  store, url = bucket
  for name in ('run/../../outside', 'run/a//b'):  # Outside the copy.
    store.put('bucket', name, b'', lambda generation: True)
  objects.write(f'{url}/old.json', b'{}')
  objects.write(f'{url}/checkpoints/1/a', b'large')
  objects.write(f'{url}/export/hf/a', b'large')
  folder = paths.expand(url + '/')
  assert os.listdir(folder) == ['old.json']
  assert paths.expand(f'{url}/sub') == f'{folder}/sub'
  assert buckets.remote(f'{folder}/checkpoints') == f'{url}/checkpoints'
  assert buckets.shown(f'wrote {folder}/x') == f'wrote {url}/x'
  del store.writes[:]
  atomic_files.write_text(f'{folder}/b.json', '1')
  assert store.writes == ['run/b.json']
  for name in ('z', 'a'):
    with open(f'{folder}/{name}', 'w') as f:
      f.write(name)
    os.utime(f'{folder}/{name}', ns=(0, ord('z') - ord(name)))
  os.unlink(f'{folder}/old.json')
  buckets.sync()
  buckets.sync()
  assert store.writes == ['run/b.json', 'run/z', 'run/a']
  assert 'run/old.json' not in store.names('bucket')
  # Changes by another run.
  objects.write(f'{url}/z', b'2')
  objects.remove([f'{url}/a'])
  buckets.refresh(folder)
  assert sorted(os.listdir(folder)) == ['b.json', 'z']
  with open(f'{folder}/z') as f:
    assert f.read() == '2'


@pytest.mark.parametrize('size', [199, 200, 201, 400, 555])
def test_large_objects_are_read_in_parts(bucket, monkeypatch, size):
  store, url = bucket
  monkeypatch.setattr(objects, '_PART', 200)
  data = os.urandom(size)
  objects.write(f'{url}/a', data)
  objects.write(f'{url}/b', b'')
  folder = paths.expand(url)
  with open(f'{folder}/a', 'rb') as f:
    assert f.read() == data
  assert os.path.getsize(f'{folder}/b') == 0
  assert store.most_read <= 201
  store.most_read = 0
  buckets.refresh(folder)
  assert store.most_read == 0


def test_copies_of_killed_processes_are_removed(bucket, tmp_path, monkeypatch):
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  monkeypatch.setattr(tempfile, 'tempdir', None)
  paths.expand(bucket[1])
  (of_this_process,) = os.listdir(tmp_path)
  code = 'from kd.core import bucket_copy as b; import os; b.new_folder("a"); '
  subprocess.run([sys.executable, '-c', f'{code}os._exit(42)'], check=False)
  assert len(os.listdir(tmp_path)) == 2
  subprocess.run([sys.executable, '-c', code], check=True)
  assert os.listdir(tmp_path) == [of_this_process]


def _replace(folder, names):
  with atomic_files.replaced_folder(f'{folder}/export/hf') as new:
    for name in names:
      with open(f'{new}/{name}', 'w') as f:
        f.write(name)


def _begin_anew(url):
  """Returns the local copy of another process."""
  buckets._copies.clear()
  folder = paths.expand(url)
  buckets.fetch(f'{folder}/export')
  return folder


def test_replaced_folders_are_complete_or_marked_incomplete(bucket):
  store, url = bucket
  folder = paths.expand(url)
  _replace(folder, ['a', 'b'])
  contents = json.loads(store.read('bucket', 'run/export/hf/kd_contents.json'))
  assert contents['complete'] and contents['files'] == {
    x: [1, identity.file_digest(f'{folder}/export/hf/{x}')] for x in 'ab'
  }
  good = dict(store.objects)
  for number in range(4):
    # This upload and all later ones fail.
    store.objects = dict(good)
    folder = _begin_anew(url)
    left = iter([None] * 2 * number)

    def end(unused, left=left):
      del unused
      if next(left, 'end'):
        raise PermissionError

    store.watch = end
    with pytest.raises(PermissionError):
      _replace(folder, ['a', 'c'])
    store.watch = lambda stored: None
    if number:
      with pytest.raises(errors.ConfigError, match='is incomplete'):
        _begin_anew(url)
      buckets.fetch(f'{paths.expand(url)}/export', check=False)
    else:
      folder = _begin_anew(url)
      assert sorted(os.listdir(f'{folder}/export/hf')) == ['a', 'b']
  buckets._copies.clear()
  _replace(paths.expand(url), ['a', 'c'])
  folder = _begin_anew(url)
  assert sorted(os.listdir(f'{folder}/export/hf')) == ['a', 'c']
  objects.write(f'{url}/export/hf/c', b'x')
  with pytest.raises(errors.ConfigError, match='a c that differs from what'):
    _begin_anew(url)


def test_unreadable_files_and_buckets_are_refused(bucket):
  store, url = bucket
  objects.write(f'{url}/model.gguf', b'GGUF')
  with open(paths.expand(f'{url}/model.gguf'), 'rb') as f:
    assert f.name.endswith('/model.gguf') and f.read() == b'GGUF'
  objects.write(f'{url}/model.gguf', b'GGUF, too')
  buckets.refresh(f.name)
  with open(f.name, 'rb') as f:
    assert f.read() == b'GGUF, too'
  # A file of a run whose folder already has a local copy.
  paths.expand(url)
  objects.write(f'{url}/export/gguf/b.gguf', b'b')
  with open(paths.expand(f'{url}/export/gguf/b.gguf'), 'rb') as f:
    assert f.read() == b'b'
  store.forbidden = '/'
  with pytest.raises(errors.ConfigError, match=f'{url}2: cannot be used'):
    paths.expand(f'{url}2')


def test_adapters_name_a_base_in_a_bucket_by_its_url(
  bucket, tmp_path, monkeypatch
):
  _, url = bucket
  objects.write(f'{url}/base/config.json', b'{"model_type": "gemma3_text"}')
  inner = families.build(model_cases.CONFIG, 'float32', 'none', 'student')
  model = lora.LoraModel(inner, 1, 1.0, ('q_proj',), False)
  adapters = jax.eval_shape(model.init_adapters, jax.random.key(0))
  params = model.with_base(
    *jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), (inner.abstract_params(), adapters)
    )
  )
  folder, more = str(tmp_path / 'peft'), lambda new: None
  run = argparse.Namespace(
    student=argparse.Namespace(keep_layers=(), prune=None),
    config=argparse.Namespace(
      student=argparse.Namespace(init=f'hf:{url}/base')
    ),
  )
  base = export._base_folder(run)
  peft.write(folder, params, model, base, more)
  with open(f'{folder}/{peft.CONFIG_FILE}') as f:
    assert json.load(f)['base_model_name_or_path'] == f'{url}/base'
  # Processes other than the first have no copy of a base that it writes.
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  peft.write(folder, params, model, str(tmp_path / 'none'), more)


def _hold(folder, said=None):
  say = (said if said is not None else []).append
  return lease.hold(folder, '--workdir', say, every_s=0.1, dead_after_s=1.0)


def test_only_one_run_holds_a_folder(bucket):
  store, url = bucket
  folder = paths.expand(url)
  said = []
  with lock.shared(folder, '--workdir', print):
    names = store.names('bucket')
    assert names == ['run/lease.json']
  assert store.names('bucket') == []
  with _hold(folder):
    second = _hold(folder, said)
    with pytest.raises(errors.ConfigError, match='in use by process'):
      second.__enter__()
  assert len(said) == 1 and 'waiting up to 1 s' in said[0]
  # The lease of a killed run on another machine.
  value = {'host': 'elsewhere', 'pid': 1, 'token': 'x', 'renewals': 3}
  objects.write(f'{url}/lease.json', json.dumps(value).encode())
  with _hold(folder, said):
    atomic_files.write_text(f'{folder}/a', 'a')
  assert 'process 1 on elsewhere' in said[1]
  # The lease of another machine with the same host name and process namespace.
  value = {**value, **lease._here(), 'machine': 'clone', 'pid': 2**22 + 1}
  objects.write(f'{url}/lease.json', json.dumps(value).encode())
  with _hold(folder, said):
    assert len(said) == 3
  # The lease of a dead process on this machine.
  value = {**value, **lease._here()}
  objects.write(f'{url}/lease.json', json.dumps(value).encode())
  # The response to the second request, which takes the lease, is lost. Reading
  # the lease shows that it was taken.
  store.inject([object_store.LOST_ANSWER], every=2)
  with _hold(folder, said):
    assert len(said) == 3 and not store.faults_left


def test_only_one_of_several_runs_takes_over_an_expired_lease(bucket):
  store, url = bucket
  folder = paths.expand(url)
  value = {'host': 'elsewhere', 'pid': 1, 'token': 'x', 'renewals': 3}
  objects.write(f'{url}/lease.json', json.dumps(value).encode())
  ended, go_on = [], threading.Event()

  def run():
    try:
      with _hold(folder):
        ended.append('held')
        go_on.wait(10)
    except errors.ConfigError:
      ended.append('refused')
      go_on.set()

  threads = [threading.Thread(target=run) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(ended) == ['held', 'refused']


def test_runs_without_the_lease_write_nothing(bucket):
  store, url = bucket
  folder = paths.expand(url)
  with pytest.raises(errors.KdError, match='taken it over'), _hold(folder):
    objects.write(f'{url}/lease.json', b'{}')
    for _ in range(200):
      if not buckets._copies[0].stopped:
        threading.Event().wait(0.05)
    atomic_files.write_text(f'{folder}/a', 'a')
  assert store.names('bucket') == ['run/lease.json']


def test_writes_wait_while_the_lease_is_overdue(bucket):
  store, url = bucket
  folder = paths.expand(url)
  answers = threading.Event()
  with _hold(folder):
    store.watch = lambda stored: answers.wait(10)
    threading.Event().wait(1.2)
    threading.Timer(0.3, answers.set).start()
    buckets._copies[0].check_owned()
    assert answers.is_set()


def test_data_files_are_read_and_identified(bucket, tmp_path):
  _, url = bucket
  line = '{"prompt": "%s", "completion": "b"}\n'
  for name in ('one', 'two'):
    objects.write(f'{url}/data/{name}.jsonl', (line % name).encode())
  bad = []
  for place, names in (
    (f'{url}/data/one.jsonl', ['one']),
    (f'{url}/data/*.jsonl', ['one', 'two']),
    (f'{url}/data', ['one', 'two']),
  ):
    files = source.Source(place)
    read = [example['inputs'] for example in files.read('train', bad.append)]
    assert read == names and not bad
  code = task_code.find('')
  digests = file_digests.Digests(str(tmp_path))
  task = file_tasks.register('bucket', source.Source(f'{url}/data/*.jsonl'))
  sources = task_files.describe([task], 'train', code, digests, ())
  assert len(sources['tasks']['bucket']['files']) == 2
  assert task_files.unchanged(sources, code, digests)
  # Another process has its own copy, unchanged until an object changes.
  buckets._copies.clear()
  assert task_files.unchanged(sources, code, digests)
  objects.write(f'{url}/data/two.jsonl', (line % 'three').encode())
  buckets._copies.clear()
  assert not task_files.unchanged(sources, code, digests)
  missing = source.Source(f'{url}/none.jsonl')
  with pytest.raises(errors.ConfigError, match='no data in'):
    list(missing.read('train', bad.append))
