"""Tests runs on several slices, connected by the data-center network."""

import pytest

from tests.fakes import cloud as cloud_lib

LINE = ('--config=configs/quickstart.py', '--workdir=/mnt/kd/runs/a')
SLICES = ('--slices=2', '--capacity=queued-spot')


@pytest.fixture
def cloud(tmp_path):
  with cloud_lib.maker(tmp_path) as make:
    yield make


def start(c):
  for verb in (['create'], ['setup'], ['run']):
    line = ['--', *LINE] if verb == ['run'] else []
    code, _, err = c.tpu(*verb, *SLICES, *line)
    assert code == 0, err


def test_every_worker_of_every_slice_runs(cloud):
  c = cloud(lives=[['ACTIVE']], workers=2, codes=[['hang'] * 4])
  start(c)
  ids = ['0/0', '0/1', '1/0', '1/1']
  c.wait_for(lambda: len(c.starts()) == 4)
  assert sorted(c.starts()) == [[f'worker={i}', *LINE] for i in ids]
  for verb in ('ssh', 'scp'):
    for call in c.calls('gcloud', verb):
      assert call[3] == 'queued-resources'
      assert {'--node=all', '--worker=all'} <= set(call)
  out = c.tpu('status', *SLICES)[1]
  for i in ids:
    assert f'kd-worker {i} ' in out
  code, out, _ = c.launch(
    *('launch/tpu', 'logs', f'--settings={c.settings}', *SLICES),
    '--worker=1/01',
  )
  assert out.split()[3:7] == ['tpu-vm', 'ssh', 'kd-1b-1', '--worker=1']
  code, _, err = c.tpu('logs', *SLICES, '--worker=2/0')
  assert (code, '2 slices' in err) == (2, True), err
  assert c.tpu('stop', *SLICES, '--grace_seconds=20')[0] == 0
  assert c.tpu('status', *SLICES)[1].count(' ended 42') == 4
  assert c.tpu('delete', *SLICES)[0] == 0
  assert c.slice('kd-1b') is None


def test_a_silent_worker_of_another_slice_is_named(cloud):
  c = cloud(
    lives=[['ACTIVE']],
    workers=2,
    codes=[[0] * 4],
    mute=[['status.sh', '1/0', 1]],
  )
  start(c)
  code, _, err = c.tpu('watch', *SLICES)
  assert code == 0, err
  assert 'run: unsure 0/0:ended:0 0/1:ended:0 1/0:silent 1/1:ended:0' in err
  assert 'run: done' in err


def test_all_slices_are_created_again_if_one_is_preempted(cloud):
  c = cloud(
    lives=[[*['ACTIVE'] * 4, 'ACTIVE/READY,PREEMPTED'], ['ACTIVE']],
    workers=1,
    codes=[['hang'] * 2, [0, 0]],
  )
  start(c)
  code, _, err = c.tpu('watch', *SLICES)
  assert code == 0, err
  assert 'PREEMPTED: recreate' in err
  assert c.verbs().count('create') == 2
  assert len(c.starts()) == 4
