"""Settings, dry runs, set-up, runs and results of a TPU slice.

launch/ runs whole, in front of stand-ins of gcloud and ssh.
"""

import shlex

import pytest

from tests.fakes import cloud as cloud_lib

LINE = ('--config=configs/quickstart.py', '--workdir=/tmp/a b', '--x=$HOME;"\'')
WHERE = ('--project=my-project', '--zone=us-west4-a')


@pytest.fixture
def cloud(tmp_path):
  with cloud_lib.maker(tmp_path) as make:
    yield make


def test_a_dry_run_prints_what_an_execution_runs(cloud):
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
  # The parcel's folder is a new one in an execution.
  masked = [
    ['PARCEL' if w.endswith('/kd.tar.gz') else w for w in call]
    for call in (*dry_ran, *ran)
  ]
  expected = masked[: len(dry_ran)]
  # An execution looks again after it has created.
  expected.insert(2, expected[0])
  assert masked[len(dry_ran) :] == expected


@pytest.mark.parametrize(
  ('capacity', 'flags'),
  [
    ('on-demand', ['tpu-vm', 'create', 'kd-1b', '--version=V']),
    ('spot', ['tpu-vm', 'create', 'kd-1b', '--version=V', '--spot']),
    (
      'queued',
      [
        *('queued-resources', 'create', 'kd-1b', '--node-id=kd-1b'),
        *('--runtime-version=V', '--async'),
      ],
    ),
    (
      'queued-spot',
      [
        *('queued-resources', 'create', 'kd-1b', '--node-id=kd-1b'),
        *('--runtime-version=V', '--async', '--spot'),
      ],
    ),
  ],
)
def test_capacity_chooses_the_command(cloud, capacity, flags):
  c = cloud(lives=[['CREATING', 'ACTIVE']] if 'q' in capacity else [['READY']])
  more = [f'--capacity={capacity}', '--runtime-version=V', '--network=net']
  # A hyphen in a setting's name is read as the underscore that it has.
  more[1] = '--runtime-version=v2-alpha'
  code, _, err = c.tpu('create', *more)
  assert code == 0, err
  (call,) = c.calls('create')
  wanted = {w.replace('=V', '=v2-alpha') for w in flags}
  rest = set(call) - wanted
  assert wanted <= set(call)
  assert ('--spot' in call) == ('spot' in capacity)
  assert rest == {
    *('gcloud', 'compute', 'tpus', '--accelerator-type=v5litepod-16'),
    *('--scopes=https://www.googleapis.com/auth/cloud-platform',),
    *(f'--labels=kd_launch={c.slice("kd-1b")["token"]}', '--network=net'),
    *WHERE,
  }


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--zon=x'], ['zon', 'zone', 'accelerator_type']),
    (['--zone='], ['zone', 'not given']),
    (['--zone=moon'], ['zone', 'moon', 'us-west4-a']),
    (['--name=Big_One'], ['name', 'Big_One']),
    (['--capacity=free'], ['capacity', 'free', 'queued-spot']),
    (['--bucket=my-bucket'], ['bucket', 'my-bucket', 'gs://']),
    (['--settings=/nowhere'], ['/nowhere', 'no such file']),
    (['execute'], ['execute', '--execute']),
    (['--failures=-1'], ['failures', '-1']),
  ],
)
def test_a_wrong_setting_is_named(cloud, arguments, words):
  c = cloud()
  code, out, err = c.tpu('create', *arguments)
  assert code == 2, (out, err)
  assert all(word in err for word in words), err
  assert c.calls() == []


def test_settings_come_from_a_file_and_flags_win(cloud):
  c = cloud()
  c.settings.write_text(
    c.settings.read_text() + '\n# text\n  capacity=spot  \nnetwork=n$(id)\n'
  )
  code, _, err = c.tpu('create', '--network=other')
  assert code == 0, err
  assert '--spot' in c.calls('create')[0]
  assert '--network=other' in c.calls('create')[0]
  c.settings.write_text('zone: us-west4-a\n')
  code, _, err = c.tpu('create')
  assert (code, f'{c.settings}:1' in err) == (2, True), err


def test_a_line_that_cannot_be_right_is_refused(cloud):
  c = cloud()
  for line, word in (
    ([], "kd's flags are missing"),
    (['--config=c.py'], 'no --workdir'),
    # kd.main would make a folder of this name on each worker's own disk.
    (['--config=c.py', '--workdir=gs://bkt/a'], 'bucket=gs://NAME'),
  ):
    for script, verb in (('tpu', 'run'), ('tpu', 'watch'), ('tpu', 'collect')):
      code, _, err = c.launch(
        f'launch/{script}', verb, f'--settings={c.settings}', '--', *line
      )
      assert (code, word in err) == (2, True), err
  _, _, err = c.tpu('run', '--bucket=gs://bkt', '--', *LINE)
  assert 'is gone with the slice' in err


def test_unknown_verbs_and_help(cloud):
  c = cloud()
  assert c.launch('launch/tpu', 'destroy')[0] == 2
  code, out, _ = c.launch('launch/tpu', '--help')
  assert code == 0
  for word in ('collect', 'accelerator_type', 'grace_seconds'):
    assert word in out


def test_setup_and_run_reach_every_worker(cloud):
  c = cloud(codes=[['hang'] * 4])
  assert c.tpu('create')[0] == 0
  assert c.tpu('setup', '--bucket=gs://bkt', '--data_dir=/mnt/kd/d')[0] == 0
  for i in range(4):
    tree = c.home('kd-1b', i) / 'kd' / 'source'
    assert (tree / 'launch' / 'worker' / 'start.sh').exists()
    assert not (tree / 'bazel-out').exists()
    worker = f'worker={i}'
    (mounted,) = c.calls('gcsfuse', worker)
    assert mounted[-2:] == ['bkt', '/mnt/kd']
    assert not c.calls('kd.main', worker)
    installed = c.calls(worker, '--require-hashes')
    assert [p[-1].rpartition('/')[2] for p in installed] == [
      'requirements_libtpu.lock'
    ]
  code, _, err = c.tpu('run', '--', *LINE)
  assert code == 0, err
  c.wait_for(lambda: len(c.starts()) == 4)
  # A machine that was restarted meanwhile has no mount any more.
  assert len(c.calls('gcsfuse')) == 8
  # The same line everywhere, and no shell has read it on its way.
  assert sorted(c.starts()) == [[f'worker={i}', *LINE] for i in range(4)]
  # The connection is over; the run is not.
  code, out, _ = c.tpu('status')
  assert out.count(' running -') == 4, out
  # A second run, and a new tree, are refused meanwhile.
  code, _, err = c.tpu('run', '--', *LINE)
  assert (code, 'a run is going on' in err) == (1, True), err
  code, _, err = c.tpu('setup')
  assert (code, 'a run is going on' in err) == (1, True), err
  assert c.tpu('stop', '--grace_seconds=20')[0] == 0
  code, out, _ = c.tpu('status')
  assert out.count(' ended 42') == 4, out
  assert len(c.starts()) == 4


def test_stop_ends_what_does_not_end_itself(cloud):
  c = cloud(workers=1, codes=[['deaf']])
  assert c.tpu('create')[0] == 0
  assert c.tpu('setup')[0] == 0
  assert c.tpu('run', '--', *LINE)[0] == 0
  c.wait_for(lambda: len(c.starts()) == 1)
  assert c.tpu('stop', '--grace_seconds=1')[0] == 0
  assert 'lost -' in c.tpu('status')[1]


def test_a_machine_with_an_old_python_gets_one(cloud):
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


def test_a_machine_without_gcsfuse_gets_it(cloud):
  c = cloud(workers=1, missing=['gcsfuse'])
  assert c.tpu('create')[0] == 0
  code, _, err = c.tpu('setup', '--bucket=gs://bkt')
  assert code == 0, err
  (call,) = c.calls('gcsfuse', 'worker=0')
  assert call[-2:] == ['bkt', '/mnt/kd']
  asked = (c.root / 'sudo.log').read_text()
  assert 'deb [signed-by=/usr/share/keyrings/gcsfuse.asc] https://' in asked
  assert 'gcsfuse-jammy main' in asked
  assert 'mkdir -p /mnt/kd' in asked


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
  # The line is remembered.
  code, _, err = c.tpu('collect', '--to=home')
  assert code == 0, err
  assert (c.root / 'home' / 'metrics.jsonl').read_text() == '{}\n'
  logs = (c.root / 'home' / 'workers.log').read_text().split('\n')
  for i in range(2):
    assert f'[t1v-w-{i}] kd: leaving with 0' in logs
  line[2] = '--workdir=/mnt/kd/runs/a'
  code, _, err = c.tpu('collect', '--bucket=gs://bkt', '--to=there', *line)
  assert code == 0, err
  assert c.calls('rsync')[0][3:] == [
    *('--recursive', 'gs://bkt/runs/a', 'there', '--project=my-project'),
  ]
