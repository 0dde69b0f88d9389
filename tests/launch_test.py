"""Tests dry runs, set-up, runs and results of a TPU slice.

The real scripts run with fakes of gcloud and ssh.
"""

import re
import shlex
import subprocess

import pytest

from tests.fakes import cloud as cloud_lib

LINE = ('--config=configs/quickstart.py', '--workdir=/tmp/a b', '--x=$HOME;"\'')
WHERE = ('--project=my-project', '--zone=us-west4-a')


@pytest.fixture
def cloud(tmp_path):
  with cloud_lib.maker(tmp_path) as make:
    yield make


def test_dry_runs_print_the_executed_commands(cloud):
  c = cloud()
  dry = [f'--settings={c.settings}']
  commands = []
  for verb in ('create', 'setup', 'run', 'status', 'logs', 'stop', 'watch'):
    code, out, err = c.launch('launch/tpu', verb, *dry, '--', *LINE)
    assert (code, err) == (0, ''), err
    commands.append(
      [shlex.split(line, comments=True) for line in out.split('\n')]
    )
  assert c.calls() == []
  assert c.tpu('create')[0] == 0
  assert c.tpu('setup')[0] == 0
  assert c.tpu('run', '--', *LINE)[0] == 0
  ran = c.calls('gcloud')
  token = c.slice('kd-1b')['token']
  dry_ran = [
    [word.replace('TOKEN', token) for word in command]
    for command in sum(commands[:3], [])
    if command[:1] == ['gcloud']
  ]
  # The archive's folder and the attempt's name differ between executions.
  new = r'/.*/kd\.tar\.gz|(?<=start\.sh )\w+'
  masked = [
    [re.sub(new, 'NEW', word) for word in call] for call in (*dry_ran, *ran)
  ]
  expected = masked[: len(dry_ran)]
  # An execution describes the slice again after creating it.
  expected.insert(2, expected[0])
  assert masked[len(dry_ran) :] == expected


def test_setup_and_run_reach_every_worker(cloud):
  c = cloud(codes=[['hang'] * 4])
  assert c.tpu('create')[0] == 0
  assert c.tpu('setup', '--bucket=gs://bkt', '--data_dir=/mnt/kd/d')[0] == 0
  for i in range(4):
    tree = c.home('kd-1b', i) / 'kd' / 'source'
    assert (tree / 'launch' / 'worker' / 'start.sh').exists()
    assert not (tree / 'bazel-out').exists()
    worker = f'worker={i}'
    mounted = c.calls('gcsfuse', worker)[-1]
    assert mounted[2:] == [
      *('--implicit-dirs', '--metadata-cache-ttl-secs=0'),
      *('--enable-streaming-writes=false', 'bkt', '/mnt/kd'),
    ]
    assert not c.calls('-m', 'kd', worker)
    installed = c.calls(worker, '--require-hashes')
    assert [p[-1].rpartition('/')[2] for p in installed] == [
      'requirements_libtpu.lock'
    ]
  code, _, err = c.tpu('run', '--', *LINE)
  assert code == 0, err
  c.wait_for(lambda: len(c.starts()) == 4)
  # Mounted again before the run: a restarted machine has no mount.
  assert len(c.calls('gcsfuse', '/mnt/kd')) == 8
  # All workers get the same line, unchanged by any shell.
  assert sorted(c.starts()) == [[f'worker={i}', *LINE] for i in range(4)]
  # The run continues after the connection has ended.
  code, out, _ = c.tpu('status')
  assert out.count(' running -') == 4, out
  # A second run and a new set-up are refused during the run.
  code, _, err = c.tpu('run', '--', *LINE)
  assert (code, 'a run is in progress' in err) == (1, True), err
  code, _, err = c.tpu('setup')
  assert (code, 'a run is in progress' in err) == (1, True), err
  assert c.tpu('stop', '--grace_seconds=20')[0] == 0
  code, out, _ = c.tpu('status')
  assert out.count(' ended 42') == 4, out
  assert len(c.starts()) == 4


@pytest.mark.parametrize('how', ['mute', 'fail'])
def test_incomplete_starts_are_stopped(cloud, how):
  c = cloud(workers=3, codes=[['hang'] * 3], **{how: [['start.sh', 1, 1]]})
  for verb in ('create', 'setup'):
    assert c.tpu(verb)[0] == 0
  code, _, err = c.tpu('run', '--grace_seconds=20', '--', *LINE)
  assert (code, "worker 1 did not answer 'started'" in err) == (1, True), err
  assert 'could not be started on every worker' in err
  status = c.tpu('status')[1]
  assert 'running' not in status, status
  assert 'kd-worker 1 t1v-w-1 absent -' in status
  # The next run starts on all workers.
  assert c.tpu('run', '--', *LINE)[0] == 0
  assert c.tpu('status')[1].count(' running -') == 3


def test_refused_starts_keep_the_existing_run(cloud):
  c = cloud(workers=2, codes=[['hang'] * 2])
  for verb in (['create'], ['setup'], ['run', '--', *LINE]):
    assert c.tpu(*verb)[0] == 0
  code, _, err = c.tpu('run', '--', *LINE)
  assert (code, 'a run is in progress' in err) == (1, True), err
  assert c.tpu('status')[1].count(' running -') == 2


def test_starts_repeated_by_gcloud_succeed(cloud):
  c = cloud(workers=1, codes=[['hang']])
  for verb in (['create'], ['setup'], ['run', '--', *LINE]):
    assert c.tpu(*verb)[0] == 0
  (call,) = [x for x in c.calls('ssh') if 'start.sh' in x[-1]]
  done = subprocess.run(
    call, env=c.environment(), check=False, text=True, stdout=subprocess.PIPE
  )
  assert (done.returncode, 'started -' in done.stdout) == (0, True)
  assert len(c.starts()) == 1
  # The next run is a new attempt.
  assert c.tpu('run', '--', *LINE)[0] == 1


def test_incomplete_setups_fail(cloud):
  c = cloud(workers=3, mute=[['setup.sh', 2, 1]])
  assert c.tpu('create')[0] == 0
  code, _, err = c.tpu('setup')
  assert (code, "worker 2 did not answer 'ready'" in err) == (1, True), err
  assert c.tpu('setup')[0] == 0


def test_stop_kills_runs_that_do_not_end(cloud):
  c = cloud(workers=1, codes=[['deaf']])
  assert c.tpu('create')[0] == 0
  assert c.tpu('setup')[0] == 0
  assert c.tpu('run', '--', *LINE)[0] == 0
  c.wait_for(lambda: len(c.starts()) == 1)
  assert c.tpu('stop', '--grace_seconds=1')[0] == 0
  assert 'lost -' in c.tpu('status')[1]


def test_setup_installs_python_on_machines_with_an_old_one(cloud):
  c = cloud(workers=1, missing=['python3.11', 'python3.12'])
  assert c.tpu('create')[0] == 0
  code, _, err = c.tpu('setup')
  assert code == 0, err
  installed = c.calls('worker=0', '--require-hashes')
  assert [p[-1].rpartition('/')[2] for p in installed] == [
    *('requirements_uv.lock', 'requirements_libtpu.lock'),
  ]
  assert c.calls('uv', 'install', '3.11')
  assert c.tpu('run', '--', *LINE)[0] == 0
  c.wait_for(lambda: 'ended 0' in c.tpu('status')[1])


def test_setup_installs_gcsfuse(cloud):
  c = cloud(workers=1, missing=['gcsfuse'])
  assert c.tpu('create')[0] == 0
  code, _, err = c.tpu('setup', '--bucket=gs://bkt')
  assert code == 0, err
  assert c.calls('gcsfuse', 'worker=0', 'bkt', '/mnt/kd')
  asked = (c.root / 'sudo.log').read_text()
  assert 'deb [signed-by=/usr/share/keyrings/gcsfuse.asc] https://' in asked
  assert 'gcsfuse-jammy main' in asked
  assert 'mkdir -p /mnt/kd' in asked


def test_an_old_gcsfuse_is_replaced(cloud):
  """The mount needs flags of gcsfuse 3."""
  c = cloud(workers=1, gcsfuse='2.11.1')
  assert c.tpu('create')[0] == 0
  assert c.tpu('setup', '--bucket=gs://bkt')[0] == 0
  assert '--yes install gcsfuse' in (c.root / 'sudo.log').read_text()


def test_setup_stops_at_the_first_failure(cloud):
  c = cloud(fail=[['setup.sh', 2, 1]])
  assert c.tpu('create')[0] == 0
  assert c.tpu('setup')[0] != 0
  assert c.tpu('setup')[0] == 0


def test_collect(cloud, tmp_path):
  c = cloud(workers=2, codes=[[0, 0]])
  folder = tmp_path / 'run'
  (folder / 'checkpoints').mkdir(parents=True)
  (folder / 'metrics.jsonl').write_text('{}\n')
  assert c.tpu('create')[0] == 0
  assert c.tpu('setup')[0] == 0
  line = ['--', '--config=c.py', f'--workdir={folder}']
  assert c.tpu('run', *line)[0] == 0
  c.wait_for(lambda: c.tpu('status')[1].count('ended 0') == 2)
  # The command line of the run is remembered.
  code, _, err = c.tpu('collect', '--to=home')
  assert code == 0, err
  assert (c.root / 'home' / 'metrics.jsonl').read_text() == '{}\n'
  logs = (c.root / 'home' / 'workers.log').read_text().split('\n')
  for i in range(2):
    assert f'[{i} t1v-w-{i}] kd: leaving with 0' in logs
  assert not [line for line in logs if line.startswith('kd-worker')]
  c.replan(mute=[['kd/run/log', 1, 1]])
  code, _, err = c.tpu('collect', '--to=home')
  assert (code, 'lacks the log of worker 1' in err) == (0, True), err
  line[2] = '--workdir=/mnt/kd/runs/a'
  code, _, err = c.tpu('collect', '--bucket=gs://bkt', '--to=there', *line)
  assert code == 0, err
  assert c.calls('rsync')[0][3:] == [
    *('--recursive', 'gs://bkt/runs/a', 'there', '--project=my-project'),
  ]
