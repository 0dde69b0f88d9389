"""Tests creating, awaiting and deleting a slice, interrupts, and its owner."""

import os
import signal
import subprocess

import pytest

from tests.fakes import cloud as cloud_lib

LINE = ('--config=configs/quickstart.py', '--workdir=/tmp/a')
WHERE = ('--project=my-project', '--zone=us-west4-a')


@pytest.fixture
def cloud(tmp_path):
  with cloud_lib.maker(tmp_path) as make:
    yield make


def table(states, capacity='on-demand'):
  script = (
    'source launch/lib/states.sh; '
    'for s in "$@"; do action_of "$s" "$CAPACITY"; done'
  )
  done = subprocess.run(
    ['bash', '-c', script, 'bash', *states],
    env={'CAPACITY': capacity, 'PATH': os.environ['PATH']},
    check=True,
    text=True,
    stdout=subprocess.PIPE,
  )
  return dict(zip(states, done.stdout.split(), strict=True))


def test_every_state_has_one_action():
  meaning = {
    'READY': 'ready',
    'ACTIVE': 'ready',
    'CREATING': 'wait',
    'PROVISIONING': 'wait',
    'WAITING_FOR_RESOURCES': 'wait',
    'ACCEPTED': 'wait',
    'STARTING': 'wait',
    'RESTARTING': 'wait',
    'REPAIRING': 'wait',
    'REIMAGING': 'wait',
    'DELETING': 'wait',
    'SUSPENDING': 'wait',
    'STOPPING': 'wait',
    'PREEMPTED': 'recreate',
    'TERMINATED': 'recreate',
    'SUSPENDED': 'recreate',
    'GONE': 'recreate',
    'FAILED': 'failed',
    'ABSENT': 'absent',
    'STOPPED': 'stop',
    'HIDING': 'stop',
    'HIDDEN': 'stop',
    'UNHIDING': 'stop',
    'UNKNOWN': 'unsure',
    'STATE_UNSPECIFIED': 'unsure',
    'EMPTY': 'unsure',
    'ERROR': 'unsure',
    'BRAND_NEW': 'unsure',
    '': 'unsure',
    'ready': 'unsure',
  }
  assert table(meaning) == meaning
  # The cloud stops preemptible capacity.
  assert table(['STOPPED'], 'spot') == {'STOPPED': 'recreate'}
  assert table(['STOPPED'], 'queued-spot') == {'STOPPED': 'recreate'}
  assert table(['STOPPED'], 'queued') == {'STOPPED': 'stop'}


def test_suspended_requests_are_deleted_and_created_again(cloud):
  c = cloud(
    lives=[
      ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'SUSPENDING', 'SUSPENDED'],
      ['CREATING', 'ACTIVE'],
    ]
  )
  code, _, err = c.tpu('create', '--capacity=queued-spot')
  assert code == 0, err
  assert c.verbs() == [
    *('describe', 'create', *['describe'] * 4, 'delete'),
    # It does not exist and is created; once ACTIVE, its slice is described.
    *('describe', 'create', 'describe', 'describe', 'describe'),
  ]
  (delete,) = c.calls('delete')
  assert delete[1:] == [
    *('compute', 'tpus', 'queued-resources', 'delete', 'kd-1b'),
    *('--force', '--quiet', *WHERE),
  ]


def test_an_active_request_without_its_slice_is_created_again(cloud):
  c = cloud(lives=[['ACTIVE/PREEMPTED'], ['ACTIVE/NOT_FOUND'], ['ACTIVE']])
  code, _, err = c.tpu('create', '--capacity=queued')
  assert code == 0, err
  assert c.verbs().count('create') == 3
  assert c.verbs().count('delete') == 2


def test_failed_requests_are_retried_a_limited_number_of_times(cloud):
  c = cloud(lives=[['FAILED']] * 9)
  code, _, err = c.tpu('create', '--capacity=queued', '--failures=2')
  assert (code, 'given up' in err) == (1, True), err
  assert c.verbs().count('create') == 3
  assert c.verbs().count('delete') == 3, 'failed requests hold quota'
  assert c.slice('kd-1b') is None


def test_creations_are_retried_without_capacity(cloud):
  c = cloud(create_fails=2)
  assert c.tpu('create')[0] == 0
  assert c.verbs().count('create') == 3
  c = cloud(create_fails=99)
  code, _, err = c.tpu('create', '--name=other', '--failures=1')
  assert code == 1
  assert 'no more capacity' in err


@pytest.mark.parametrize('state', ['BRAND_NEW', 'UNKNOWN', 'EMPTY', 'ERROR'])
def test_unknown_states_are_queried_a_limited_number_of_times(cloud, state):
  c = cloud(lives=[['CREATING', state, state, 'READY']])
  code, _, err = c.tpu('create')
  assert code == 0, err
  assert err.count(f'{state}: unsure') == 2
  c = cloud(lives=[[state]])
  code, _, err = c.tpu('create', '--name=other')
  assert (code, f'other is {state}, asked 4 times' in err) == (1, True), err
  assert 'delete other' in err, 'says how to delete it'
  assert c.calls('delete') == []


def test_only_preempted_slices_are_created_again(cloud):
  c = cloud(lives=[['STOPPED'], ['STOPPED'], ['READY']])
  code, _, err = c.tpu('create')
  assert (code, 'someone has to look' in err) == (1, True), err
  assert c.calls('delete') == []
  code, _, err = c.tpu('create', '--name=other', '--capacity=spot')
  assert code == 0, err
  assert len(c.calls('delete')) == 1


@pytest.mark.parametrize('owner', ['', 'someone'])
@pytest.mark.parametrize('state', ['READY', 'PREEMPTED', 'FAILED', 'CREATING'])
def test_slices_of_others_are_left_alone(cloud, owner, state):
  c = cloud(lives=[[state]])
  theirs = {'group': 'tpu-vm', 'token': owner, 'life': 0, 'looks': 0}
  c.put_slice('kd-1b', theirs)
  for verb in ('create', 'delete'):
    code, _, err = c.tpu(verb)
    assert code == 1, err
    assert f'kd-1b in us-west4-a is {state} and was not created here' in err
    assert 'gcloud compute tpus tpu-vm delete kd-1b --quiet' in err
  code, _, err = c.tpu('watch', '--', *LINE)
  assert (code, 'was not created here' in err) == (1, True), err
  assert not {'create', 'delete'} & set(c.verbs())


def test_names_taken_over_by_others_are_left_alone(cloud):
  c = cloud(lives=[['READY']])
  assert c.tpu('create')[0] == 0
  c.put_slice('kd-1b', {**c.slice('kd-1b'), 'token': 'another'})
  code, _, err = c.tpu('delete')
  assert (code, "kd_launch='another'" in err) == (1, True), err
  assert c.slice('kd-1b')


def test_delete(cloud):
  c = cloud(lives=[['READY'], ['ERROR']])
  code, _, err = c.tpu('delete')
  assert (code, 'there is no kd-1b' in err) == (0, True), err
  assert c.tpu('create')[0] == 0
  assert c.tpu('delete')[0] == 0
  assert c.slice('kd-1b') is None
  assert len(c.calls('delete')) == 1
  c.put_slice('kd-1b', {'group': 'tpu-vm', 'token': '', 'life': 1, 'looks': 0})
  code, _, err = c.tpu('delete')
  assert (code, 'could not be asked' in err) == (1, True), err


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_interrupts_report_remaining_resources(cloud, sent):
  c = cloud(lives=[['WAITING_FOR_RESOURCES']])
  command = c.tpu_command('create', '--capacity=queued', '--poll_seconds=30')
  process = c.start(*command)
  c.wait_for(lambda: c.verbs().count('describe') > 1)
  # Ctrl-C reaches all processes of the terminal.
  os.killpg(process.pid, sent)
  _, err = process.communicate(timeout=10)
  assert process.returncode == 130, err
  printed = err.rstrip().split('\n')[-1]
  assert c.slice('kd-1b')
  # The printed command deletes the slice.
  subprocess.run(printed, shell=True, env=c.environment(), check=True)
  assert c.slice('kd-1b') is None


def test_waiting_ends_after_the_limit(cloud):
  c = cloud(lives=[['WAITING_FOR_RESOURCES']])
  code, _, err = c.tpu('create', '--capacity=queued', '--wait_seconds=1')
  assert (code, 'no slice within 1 seconds' in err) == (1, True), err
  assert 'gcloud compute tpus queued-resources delete kd-1b' in err
