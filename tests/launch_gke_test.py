"""Tests the JobSet of launch/gke: rendered, applied, read and deleted."""

import itertools
import re

import pytest
import yaml

from tests.fakes import cloud as cloud_lib

LINE = ['--config=configs/quickstart.py', '--workdir=/mnt/kd/runs/a b']


@pytest.fixture
def cloud(tmp_path):
  return cloud_lib.Cloud(tmp_path, cloud_lib.GKE_SETTINGS)


def render(c, *arguments):
  code, out, err = c.gke('render', *arguments)
  assert code == 0, err
  return yaml.safe_load(out)


def pod_of(manifest):
  (job,) = manifest['spec']['replicatedJobs']
  return job['template']['spec'], job['template']['spec']['template']['spec']


@pytest.mark.parametrize(
  ('machine', 'topology', 'accelerator', 'chips', 'hosts'),
  [
    ('ct5lp-hightpu-4t', '4x4', 'tpu-v5-lite-podslice', 4, 4),
    ('ct5lp-hightpu-8t', '2x4', 'tpu-v5-lite-podslice', 8, 1),
    ('ct5p-hightpu-4t', '2x2x4', 'tpu-v5p-slice', 4, 4),
    ('ct6e-standard-4t', '8x8', 'tpu-v6e-slice', 4, 16),
    ('tpu7x-standard-4t', '2x2x2', 'tpu7x', 4, 2),
  ],
)
def test_every_host_of_the_slice_runs(
  cloud, machine, topology, accelerator, chips, hosts
):
  flags = (f'--topology={topology}', f'--machine_type={machine}')
  manifest = render(cloud, *flags, '--', *LINE)
  job, pod = pod_of(manifest)
  assert job['parallelism'] == job['completions'] == hosts
  (container,) = pod['containers']
  assert container['resources']['limits'] == {'google.com/tpu': chips}
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': accelerator,
    'cloud.google.com/gke-tpu-topology': topology,
  }
  assert 'volumes' not in pod


def expanded(text):
  """Expands a container's argument like Kubernetes, with only HOME set.

  By its documentation of `args`, $(NAME) of an unset variable stays, and $$
  becomes $ and is not expanded again.
  """
  out, i = '', 0
  while i < len(text):
    variable = re.match(r'\$\([^()]*\)', text[i:])
    if text[i : i + 2] == '$$':
      out, i = out + '$', i + 2
    elif variable and variable[0] == '$(HOME)':
      out, i = out + '/root', i + len(variable[0])
    else:
      out, i = out + text[i], i + 1
  return out


def test_arguments_reach_kd_unchanged(cloud):
  line = [*LINE, '--a="x" \\ @NAME@ @TOKEN@ & $(HOME) {}: #', "--b='", '--c=é']
  dollars = [''.join(p) for p in itertools.product('$(x', repeat=4)]
  line += ['--d=$$', '--e=$$(HOME)', '--f=$$$(HOME)$', f'--g={dollars}']
  _, pod = pod_of(render(cloud, '--', *line))
  assert [expanded(a) for a in pod['containers'][0]['args']] == line
  code, _, err = cloud.gke('render', '--', *LINE, '--a=\n')
  assert (code, 'control character' in err) == (2, True), err


def test_several_slices(cloud):
  manifest = render(cloud, '--slices=3', '--', *LINE)
  (job,) = manifest['spec']['replicatedJobs']
  assert job['replicas'] == 3
  assert job['template']['spec']['completions'] == 4
  annotations = manifest['metadata']['annotations']
  assert annotations == {
    'alpha.jobset.sigs.k8s.io/exclusive-topology': (
      'cloud.google.com/gke-nodepool'
    )
  }
  assert cloud.gke('logs', '--slices=40')[0] == 0
  (call,) = cloud.calls('kubectl', 'logs')
  assert '--max-log-requests=160' in call


def test_capacity(cloud):
  _, pod = pod_of(render(cloud, '--capacity=spot', '--', *LINE))
  assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
  assert pod['tolerations'][0]['key'] == 'cloud.google.com/gke-spot'
  single = ('--machine_type=ct5lp-hightpu-8t', '--topology=2x4')
  _, pod = pod_of(render(cloud, '--capacity=flex-start', *single, '--', *LINE))
  assert pod['nodeSelector']['cloud.google.com/gke-flex-start'] == 'true'
  assert 'tolerations' not in pod
  reserved = ('--capacity=reserved', '--reservation=r')
  _, pod = pod_of(render(cloud, *reserved, '--', *LINE))
  assert len(pod['nodeSelector']) == 2


def test_a_bucket_is_mounted_without_streaming_writes(cloud):
  flags = ('--bucket=gs://bkt', '--data_dir=/mnt/kd/data')
  job, pod = pod_of(render(cloud, *flags, '--', *LINE))
  (container,) = pod['containers']
  (mount,) = container['volumeMounts']
  (volume,) = pod['volumes']
  assert mount == {'name': volume['name'], 'mountPath': '/mnt/kd'}
  attributes = volume['csi']['volumeAttributes']
  assert attributes['bucketName'] == 'bkt'
  assert attributes['mountOptions'].split(',') == [
    *('implicit-dirs', 'metadata-cache:ttl-secs:0'),
    'write:enable-streaming-writes:false',
  ]
  # Files staged on the node may exceed the default of 5 GiB.
  annotations = job['template']['metadata']['annotations']
  assert annotations['gke-gcsfuse/ephemeral-storage-limit'] == '0'
  assert {e['name']: e['value'] for e in container['env']} == {
    'KD_BUCKET': 'bkt',
    'KD_OWNER': 'gke:gke_my-project_us-west4_kd/default/kd-1b',
    'KD_TAKEOVER': 'no',
    'KD_DATA_DIR': '/mnt/kd/data',
  }


def played(manifest, code, disrupted=False):
  """Returns the effect of a host's exit code by Kubernetes' documentation."""
  job, pod = pod_of(manifest)
  assert pod['restartPolicy'] == 'Never', 'podFailurePolicy needs it'
  action = 'Count'
  for rule in job['podFailurePolicy']['rules']:
    if 'onExitCodes' in rule:
      codes = rule['onExitCodes']
      assert codes['containerName'] == pod['containers'][0]['name']
      matches = codes['operator'] == 'In' and code in codes['values']
    else:
      conditions = [c['type'] for c in rule['onPodConditions']]
      matches = disrupted and 'DisruptionTarget' in conditions
    if matches:
      action = rule['action']
      break
  if action == 'Ignore':
    return 'host again, not counted'
  assert job['backoffLimit'] == 0
  fails = 'PodFailurePolicy' if action == 'FailJob' else 'BackoffLimitExceeded'
  policy = manifest['spec']['failurePolicy']
  for rule in policy['rules']:
    if fails in rule['onJobFailureReasons']:
      return rule['action']
  return f'all again, {policy["maxRestarts"]} times'


def test_exit_codes_decide_about_restarts(cloud):
  manifest = render(cloud, '--failures=05', '--', *LINE)
  assert played(manifest, 2) == 'FailJobSet'
  assert played(manifest, 3) == 'FailJobSet'
  assert played(manifest, 42) == 'host again, not counted'
  assert played(manifest, 143, disrupted=True) == 'host again, not counted'
  assert played(manifest, 1) == 'all again, 5 times'
  assert played(manifest, 137) == 'all again, 5 times'


def test_apply_and_delete_only_our_own_jobset(cloud):
  code, _, err = cloud.gke('apply', '--', *LINE)
  assert code == 0, err
  here = yaml.safe_load(cloud.slice('kd-1b')['manifest'])
  assert here['metadata']['labels']['kd_launch']
  assert pod_of(here)[1]['containers'][0]['args'] == LINE
  for call in cloud.calls('kubectl'):
    assert call[1:3] == [
      '--context=gke_my-project_us-west4_kd',
      '--namespace=default',
    ]
  code, _, err = cloud.gke('apply', '--', *LINE)
  assert (code, 'is there already' in err) == (1, True), err
  assert cloud.gke('status')[0] == 0
  assert cloud.gke('logs')[0] == 0
  assert cloud.gke('delete')[0] == 0
  assert cloud.slice('kd-1b') is None
  code, _, err = cloud.gke('delete')
  assert (code, 'there is no JobSet' in err) == (0, True), err


def test_jobsets_of_others_are_left_alone(cloud):
  cloud.put_slice('kd-1b', {'manifest': 'kd_launch: "another"'})
  for verb in (['apply', '--', *LINE], ['delete']):
    assert cloud.gke(*verb)[0] == 1
  assert not cloud.calls('kubectl', 'apply')
  assert not cloud.calls('kubectl', 'delete')


def test_dry_runs_and_unreachable_clusters(cloud):
  first = f'--settings={cloud.settings}'
  for verb in (
    *('create-pools', 'render', 'apply', 'status', 'logs', 'delete'),
    'delete-pools',
  ):
    code, out, err = cloud.launch(
      'launch/gke', verb, first, *cloud_lib.POOL_FLAGS, '--', *LINE
    )
    assert (code, err, bool(out)) == (0, '', True)
  assert cloud.calls() == []
  cloud.replan(kubectl_fails=True)
  assert cloud.gke('apply', '--', *LINE)[0] == 1
  assert cloud.gke('delete')[0] == 1
  assert len(cloud.calls('kubectl')) == 2


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--topology=4'], ['topology', '4x4']),
    (['--topology=2x3'], ['2x3', '6 chips', 'the 4 of a ct5lp-hightpu-4t']),
    (['--topology=08x08'], ['topology', '08x08']),
    (['--machine_type=n2-standard-4'], ['machine_type', 'n2', 'tpu7x']),
    (['--name=A'], ['name']),
    (['--namespace='], ['namespace']),
    (['--failures=1e3'], ['failures', '1e3', '0 1000']),
    (['--slices=0'], ['slices', "'0'"]),
    (['--capacity=maybe'], ['capacity', 'maybe']),
    (['--capacity=reserved'], ['reservation', 'not given']),
    (['--reservation=r'], ['reservation', 'capacity=on-demand']),
    (['--capacity=flex-start'], ['flex-start', '4 hosts']),
    (
      ['--slices=2', '--machine_type=ct5lp-hightpu-8t', '--topology=2x4'],
      ['slices', 'one host'],
    ),
  ],
)
def test_a_wrong_setting_is_named(cloud, arguments, words):
  code, _, err = cloud.gke('render', *arguments, '--', *LINE)
  assert code == 2
  assert all(word in err for word in words), err
