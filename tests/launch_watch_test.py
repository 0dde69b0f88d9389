"""Tests how watch reacts to exit codes and to states of the cloud."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.fakes import cloud as cloud_lib

LINE = ('--config=configs/quickstart.py', '--workdir=/mnt/kd/runs/a b')


@pytest.fixture
def running(tmp_path):
  """A function that creates a cloud and starts a run in it."""
  with cloud_lib.maker(tmp_path) as cloud:

    def make(*line, **plan):
      c = cloud(**plan)
      for verb in (['create'], ['setup'], ['run', '--', *(line or LINE)]):
        code, _, err = c.tpu(*verb)
        assert code == 0, err
      return c

    yield make


def verdict(*states):
  answers = ''.join(f'{i} {state}\n' for i, state in enumerate(states))
  done = subprocess.run(
    ['bash', '-c', 'source launch/lib/states.sh; verdict_of'],
    check=True,
    text=True,
    input=answers,
    stdout=subprocess.PIPE,
  )
  return done.stdout.strip()


def test_the_verdict_on_all_workers():
  def ended(*codes):
    return [f'ended {code}' for code in codes]

  assert verdict(*ended(0, 0)) == 'done'
  assert verdict(*ended(42, 42)) == 'preempted'
  assert verdict(*ended(0, 42)) == 'preempted'
  # The other workers end with 42 because one failed.
  assert verdict(*ended(42, 2, 42)) == 'config'
  assert verdict(*ended(3, 42)) == 'nonfinite'
  assert verdict(*ended(42, 1)) == 'failed'
  assert verdict(*ended(137, 0)) == 'failed'
  assert verdict('lost -', *ended(42)) == 'failed'
  assert verdict('running -', 'running -') == 'running'
  assert verdict('running -', *ended(0)) == 'running'
  assert verdict('running -', *ended(42)) == 'uneven'
  assert verdict('running -', 'absent -') == 'uneven'
  assert verdict('running -', 'lost -') == 'uneven'
  assert verdict('absent -', *ended(0)) == 'absent'
  assert verdict() == 'unsure'
  # A silent worker could be in any state.
  assert verdict(*ended(0, 0, 0), 'silent -') == 'unsure'
  assert verdict('running -', 'silent -') == 'unsure'


def starts_by_worker(c):
  """Returns the arguments of all starts of each worker."""
  return [
    [s[1:] for s in c.starts() if s[0] == f'worker={i}']
    for i in range(c.plan['workers'])
  ]


@pytest.mark.parametrize('state', ['PREEMPTED', 'NOT_FOUND'])
def test_preempted_runs_continue_on_a_new_slice(running, state):
  c = running(
    lives=[['READY'] * 4 + [state], ['CREATING', 'READY']],
    codes=[['hang'] * 4, [0] * 4],
  )
  c.wait_for(lambda: len(c.starts()) == 4)
  code, _, err = c.tpu('watch')
  assert code == 0, err
  verbs = c.verbs()
  new = len(verbs) - verbs[::-1].index('create')
  deleted = [] if state == 'NOT_FOUND' else ['delete', 'describe']
  before = [*deleted, 'create']
  assert verbs[new - len(before) : new] == before
  # CREATING, READY, and READY again before set-up and start.
  assert verbs[new:][:6] == [*['describe'] * 3, 'scp', 'ssh', 'ssh']
  assert all(call[5] == 'kd-1b' for call in c.calls('delete'))
  assert starts_by_worker(c) == [[list(LINE)] * 2] * 4
  assert c.slice('kd-1b')['life'] == 1
  for call in c.calls('gcloud', 'ssh'):
    assert '--worker=all' in call


@pytest.mark.parametrize(
  ('first', 'code', 'starts'),
  [
    ([0, 0], 0, 1),
    ([2, 2], 2, 1),
    ([2, 42], 2, 1),
    ([42, 3], 3, 1),
    ([42, 42], 0, 2),
    ([1, 42], 0, 2),
    ([137, 137], 0, 2),
  ],
)
def test_exit_codes_decide_about_restarts(running, first, code, starts):
  c = running(workers=2, codes=[first, [0, 0]])
  returned, _, err = c.tpu('watch')
  assert returned == code, err
  assert starts_by_worker(c) == [[list(LINE)] * starts] * 2
  assert c.verbs().count('create') == 1
  assert 'gcloud compute tpus tpu-vm delete kd-1b' in err, 'it still costs'


def test_retries_are_limited_for_failures_but_not_preemptions(
  running,
):
  c = running(workers=1, codes=[[1]])
  code, _, err = c.tpu('watch', '--failures=2')
  assert (code, 'the run failed: given up after 3' in err) == (1, True), err
  assert len(c.starts()) == 3
  c = running(workers=1, codes=[[42]] * 3 + [[0]])
  code, _, err = c.tpu('watch', '--failures=1')
  assert code == 0, err
  assert len(c.starts()) == 4
  # But a run that ends with 42 right after its start has failed.
  c = running(workers=1, codes=[[42]])
  code, _, err = c.tpu('watch', '--failures=2', '--settle_seconds=900')
  assert (code, 'soon after its start' in err) == (1, True), err
  assert len(c.starts()) == 4, 'the first was not started by the watch'


def test_workers_are_stopped_after_one_has_failed(running):
  c = running(workers=3, codes=[['hang', 1, 'hang'], [0, 0, 0]])
  code, _, err = c.tpu('watch', '--grace_seconds=1')
  assert code == 0, err
  assert 'run: uneven 0:running 1:ended:1' in err
  assert '0:ended:42 1:ended:1 2:ended:42' in err
  assert starts_by_worker(c) == [[list(LINE)] * 2] * 3


def test_incomplete_starts_are_stopped(running):
  c = running(workers=2, codes=[[1, 1], ['hang', 0], [0, 0]])
  c.replan(fail=[['start.sh', 1, 1]])
  code, _, err = c.tpu('watch', '--grace_seconds=1')
  assert code == 0, err
  assert 'the run could not be started: failure 2' in err
  stops = [call for call in c.calls('gcloud', 'ssh') if 'stop.sh' in str(call)]
  assert stops


def test_replaced_machines_are_set_up(running):
  c = running(workers=2, codes=[[1, 1], [0, 0]])
  c.wait_for(lambda: c.tpu('status')[1].count('ended 1') == 2)
  shutil.rmtree(c.home('kd-1b', 1))
  code, _, err = c.tpu('watch')
  assert code == 0, err
  assert '0:ended:1 1:absent' in err
  assert len(c.starts()) > 3


def test_workers_without_their_run_count_as_failed(running):
  c = running(workers=2, codes=[['hang'] * 2, [0, 0]])
  c.wait_for(lambda: len(c.starts()) == 2)
  # As after a crash of the machine, there is no process and no exit code.
  session = c.home('kd-1b', 1) / 'kd' / 'run' / 'session'
  os.killpg(int(session.read_text()), signal.SIGKILL)
  code, _, err = c.tpu('watch')
  assert code == 0, err
  assert '1:lost' in err


def test_a_machine_shutdown_records_the_exit_code(running):
  c = running(workers=1, codes=[['hang']])
  c.wait_for(lambda: c.starts())
  run = c.home('kd-1b', 0) / 'kd' / 'run'
  c.wait_for(lambda: 'kd: training' in (run / 'log').read_text())
  # A machine that shuts down sends SIGTERM to all processes.
  os.killpg(int((run / 'session').read_text()), signal.SIGTERM)
  c.wait_for(lambda: 'running -' not in c.tpu('status')[1])
  assert 'ended 42' in c.tpu('status')[1]


def test_workers_without_an_answer(running):
  c = running(workers=2, codes=[['hang'] * 2])
  c.replan(fail=[['status.sh', 0, 99]])
  code, _, err = c.tpu('watch', '--failures=1')
  assert (code, 'worker 0 of kd-1b did not answer' in err) == (1, True), err
  assert len(c.starts()) == 2


@pytest.mark.parametrize('how', ['mute', 'fail'])
def test_a_run_is_done_when_all_workers_report_it(running, how):
  """gcloud returns 0 or an error, and worker 2 prints nothing."""
  c = running(workers=3, codes=[[0, 0, 0]])
  c.wait_for(lambda: c.tpu('status')[1].count('ended 0') == 3)
  c.replan(**{how: [['status.sh', 2, 3]]})
  code, out, err = c.tpu('status')
  assert (code, out.count('ended 0')) == (1, 2), (out, err)
  assert 'worker 2 did not answer' in err
  code, _, err = c.tpu('watch')
  assert code == 0, err
  assert err.count('run: unsure 0:ended:0 1:ended:0 2:silent') == 2
  assert 'run: done 0:ended:0 1:ended:0 2:ended:0' in err


def test_workers_that_never_answer_are_named(running):
  c = running(workers=3, codes=[[0, 0, 0]], mute=[['status.sh', 2, 99]])
  code, _, err = c.tpu('watch', '--failures=1')
  assert (code, 'run: done' in err) == (1, False), err
  assert 'worker 2 of kd-1b did not answer 2 times' in err


@pytest.mark.parametrize('endpoints', [0, ''])
def test_slices_of_unknown_size_are_not_ready(running, endpoints):
  c = running(workers=2, codes=[[0, 0]])
  c.replan(endpoints=endpoints)
  code, _, err = c.tpu('watch', '--failures=1')
  assert (code, 'kd-1b is EMPTY' in err) == (1, True), err


def test_the_run_is_started_on_slices_without_it(running):
  # Ctrl-C between creation and start, then the same command again.
  c = running(workers=2)
  assert c.tpu('delete')[0] == 0
  c.replan(lives=[*c.plan['lives'], ['READY']])
  assert c.tpu('create')[0] == 0
  code, _, err = c.tpu('watch')
  assert (code, 'run: absent' in err) == (0, True), err
  assert starts_by_worker(c) == [[list(LINE)] * 2] * 2


def test_an_interrupted_watch_keeps_the_run(running):
  c = running(workers=1, codes=[['hang']])
  process = c.start(*c.tpu_command('watch', '--poll_seconds=30'))
  # This line is followed by the wait of 30 seconds.
  while 'run: running' not in process.stderr.readline():
    pass
  # Two concurrent recoveries could lose the slice.
  for verb in ('watch', 'create', 'delete'):
    code, _, err = c.tpu(verb)
    assert (code, 'another launch/tpu' in err) == (1, True), err
  os.killpg(process.pid, signal.SIGINT)
  _, err = process.communicate(timeout=10)
  assert process.returncode == 130, err
  with pytest.raises(ProcessLookupError):
    os.killpg(process.pid, 0)
  assert shlex.split(err.rstrip().split('\n')[-1])[3:6] == [
    *('tpu-vm', 'delete', 'kd-1b')
  ]
  assert 'running -' in c.tpu('status')[1]
  assert c.tpu('delete')[0] == 0


def test_a_run_of_the_real_program(running):
  config = '--config=configs/quickstart.py'
  for line, code in (
    ([config, '--workdir=/tmp/x', '--mode=check'], 0),
    ([config, '--workdir=/tmp/x', '--config.steps=-3'], 2),
  ):
    c = running(*line, workers=1, codes=[['real']])
    returned, _, err = c.tpu('watch', '--poll_seconds=0.3')
    assert returned == code, err
    assert len(c.starts()) == 1
