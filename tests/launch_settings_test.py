"""Tests the settings of launch/tpu and the resulting requests.

The real scripts run with fakes of gcloud and ssh.
"""

import pytest

from tests.fakes import cloud as cloud_lib

LINE = ('--config=configs/quickstart.py', '--workdir=/tmp/a b', '--x=$HOME;"\'')
WHERE = ('--project=my-project', '--zone=us-west4-a')
SCOPE = '--scopes=https://www.googleapis.com/auth/cloud-platform'


@pytest.fixture
def cloud(tmp_path):
  with cloud_lib.maker(tmp_path) as make:
    yield make


QUEUED = ('queued-resources', 'create', 'kd-1b', '--runtime-version=v2-alpha')
ONE = (*QUEUED, '--async', '--node-id=kd-1b')


@pytest.mark.parametrize(
  ('capacity', 'more', 'flags'),
  [
    ('on-demand', [], ['tpu-vm', 'create', 'kd-1b', '--version=v2-alpha']),
    (
      'spot',
      ['--internal_ips=yes', '--connect=iap'],
      [
        *('tpu-vm', 'create', 'kd-1b', '--version=v2-alpha', '--spot'),
        '--internal-ips',
      ],
    ),
    (
      'reserved',
      [],
      ['tpu-vm', 'create', 'kd-1b', '--version=v2-alpha', '--reserved'],
    ),
    (
      'reserved',
      ['--reservation=r'],
      [
        *('alpha', 'tpu-vm', 'create', 'kd-1b', '--version=v2-alpha'),
        '--reservation=r',
      ],
    ),
    ('queued', ['--create_flag=--tags=a,b'], [*ONE, '--tags=a,b']),
    ('queued-spot', [], [*ONE, '--spot']),
    ('queued-reserved', [], [*ONE, '--reserved']),
    (
      'queued-reserved',
      [
        '--reservation=r',
        '--create_flag=--provisioning-model=reservation-bound',
      ],
      [
        *('alpha', *ONE, '--reservation=r'),
        '--provisioning-model=reservation-bound',
      ],
    ),
    (
      'flex-start',
      ['--max_run_hours=36'],
      [
        *('alpha', *ONE, '--provisioning-model=flex-start'),
        '--max-run-duration=129600s',
      ],
    ),
    (
      'queued',
      ['--slices=2'],
      [*QUEUED, '--async', '--node-count=2', '--node-prefix=kd-1b'],
    ),
  ],
)
def test_capacity_chooses_the_request(cloud, capacity, more, flags):
  queued = any(f == 'queued-resources' for f in flags)
  c = cloud(lives=[['CREATING', 'ACTIVE']] if queued else [['READY']])
  # A hyphen in a setting's name is read as an underscore.
  more += [f'--capacity={capacity}', '--runtime-version=v2-alpha']
  code, _, err = c.tpu('create', '--network=net', *more)
  assert code == 0, err
  (call,) = c.calls('create')
  token = c.slice('kd-1b')['token']
  assert sorted(call) == sorted(
    [
      *('gcloud', 'compute', 'tpus', '--accelerator-type=v5litepod-16'),
      *(SCOPE, f'--labels=kd_launch={token}', '--network=net', *WHERE, *flags),
    ]
  )


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
    (['--failures=1e3'], ['failures', '1e3', '0 1000']),
    (['--failures='], ['failures', "''"]),
    (['--failures=٣'], ['failures']),
    (['--failures=99999999999999999999'], ['failures', '0 1000']),
    (['--backoff_seconds=0x10'], ['backoff_seconds', '0x10']),
    (['--grace_seconds=1.5'], ['grace_seconds', '1.5']),
    (['--poll_seconds=.'], ['poll_seconds']),
    (['--poll_seconds=0'], ['poll_seconds']),
    (['--settle_seconds=99999999'], ['settle_seconds', '86400']),
    (['--accelerator_type=tpu7x-8'], ['tpu7x-8', 'launch/gke']),
    (['--slices=2'], ['slices', 'capacity=on-demand', 'queued-spot']),
    (['--slices=0', '--capacity=queued'], ['slices', "'0'"]),
    (['--reservation=r'], ['reservation', 'capacity=on-demand']),
    (['--internal_ips=yes'], ['connect', 'external', 'iap']),
    (['--create_flag=tags'], ['create_flag', 'tags']),
    (['--max_run_hours=200'], ['max_run_hours', '1 168']),
  ],
)
def test_a_wrong_setting_is_named(cloud, arguments, words):
  c = cloud()
  code, out, err = c.tpu('create', *arguments)
  assert code == 2, (out, err)
  assert all(word in err for word in words), err
  assert c.calls() == []


def test_integers_are_decimal(cloud):
  """Bash would read 08 as an invalid octal number."""
  c = cloud(create_fails=99)
  code, _, err = c.tpu('create', '--failures=08')
  assert (code, 'given up after 9 failures' in err) == (1, True), err
  assert c.verbs().count('create') == 9
  assert 'value too great' not in err
  code, out, _ = c.launch(
    *('launch/tpu', 'logs', f'--settings={c.settings}', '--worker=08')
  )
  assert (code, '--worker=8' in out) == (0, True), out


def test_flags_of_gcloud_may_be_repeated(cloud):
  c = cloud(workers=1)
  c.settings.write_text(
    c.settings.read_text()
    + 'create_flag=--tags=a\ncreate_flag=--description=x y\n'
  )
  code, _, err = c.tpu('create', '--create_flag=--metadata=k=v')
  assert code == 0, err
  assert {'--tags=a', '--description=x y', '--metadata=k=v'} <= set(
    c.calls('create')[0]
  )
  key = '--connect_flag=--ssh-key-file=k'
  assert c.tpu('setup', key)[0] == 0
  for verb in ('ssh', 'scp'):
    (call,) = c.calls('gcloud', verb)
    assert '--ssh-key-file=k' in call
  # Unknown flags are refused by gcloud.
  code, _, err = c.tpu('setup', '--connect_flag=--no-such-flag')
  assert (code, 'unrecognized arguments' in err) == (2, True), err


@pytest.mark.parametrize(
  ('connect', 'words'),
  [
    ('iap', ['alpha', '--tunnel-through-iap']),
    ('internal', ['--internal-ip']),
  ],
)
def test_workers_without_external_addresses(cloud, connect, words):
  c = cloud(workers=2)
  private = ('--internal_ips=yes', f'--connect={connect}')
  for verb in (['create'], ['setup'], ['run', '--', *LINE]):
    code, _, err = c.tpu(*verb[:1], *private, *verb[1:])
    assert code == 0, err
  c.wait_for(lambda: c.tpu('status', *private)[1].count('ended 0') == 2)
  for call in c.calls('gcloud', '--worker=all'):
    assert set(words) <= set(call)
  # Without the setting the cloud cannot reach the workers.
  code, _, err = c.tpu('status')
  assert (code, 'no external IP' in err) == (1, True), err


def test_flags_override_settings_of_the_file(cloud):
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


def test_invalid_lines_are_refused(cloud):
  c = cloud()
  for line, word in (
    ([], "kd's flags are missing"),
    (['--config=c.py'], 'no --workdir'),
    # kd would create a folder with this name on each worker's local disk.
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
