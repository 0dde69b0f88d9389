"""The JobSet of launch/gke: rendered, applied, looked at and deleted."""

import pytest
import yaml

from tests.fakes import cloud as cloud_lib

LINE = ['--config=configs/quickstart.py', '--workdir=/mnt/kd/runs/a b']
SETTINGS = {
  'context': 'gke_my-project_us-west4_kd',
  'name': 'kd-1b',
  'image': 'us-docker.pkg.dev/my-project/kd/kd:1',
  'accelerator': 'tpu-v5-lite-podslice',
  'topology': '4x4',
}


@pytest.fixture
def cloud(tmp_path):
  c = cloud_lib.Cloud(tmp_path)
  c.settings.write_text(''.join(f'{k}={v}\n' for k, v in SETTINGS.items()))
  return c


def gke(c, verb, *arguments):
  first = ['launch/gke', verb, f'--settings={c.settings}', '--execute']
  return c.launch(*first, *arguments)


def render(c, *arguments):
  code, out, err = gke(c, 'render', *arguments)
  assert code == 0, err
  return yaml.safe_load(out)


def pod_of(manifest):
  (job,) = manifest['spec']['replicatedJobs']
  return job['template']['spec'], job['template']['spec']['template']['spec']


@pytest.mark.parametrize(
  ('topology', 'chips', 'hosts'),
  [('4x4', 4, 4), ('2x4', 8, 1), ('2x2x4', 4, 4), ('8x8', 4, 16)],
)
def test_every_host_of_the_slice_runs(cloud, topology, chips, hosts):
  manifest = render(
    cloud, f'--topology={topology}', f'--chips_per_host={chips}', '--', *LINE
  )
  job, pod = pod_of(manifest)
  assert job['parallelism'] == job['completions'] == hosts
  (container,) = pod['containers']
  assert container['resources']['limits'] == {'google.com/tpu': chips}
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': topology,
  }
  assert 'volumes' not in pod


def test_a_line_arrives_as_it_was_written(cloud):
  line = [*LINE, '--a="x" \\ @NAME@ @TOKEN@ & $(HOME) {}: #', "--b='", '--c=é']
  _, pod = pod_of(render(cloud, '--', *line))
  # Kubernetes itself reads $$( as $(.
  got = [a.replace('$$(', '$(') for a in pod['containers'][0]['args']]
  assert got == line
  assert '$$(HOME)' in pod['containers'][0]['args'][2]
  code, _, err = gke(cloud, 'render', '--', *LINE, '--a=\n')
  assert (code, 'control character' in err) == (2, True), err


def test_spot_and_bucket(cloud):
  manifest = render(cloud, '--spot=yes', '--bucket=gs://bkt', '--', *LINE)
  _, pod = pod_of(manifest)
  assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
  assert pod['tolerations'][0]['key'] == 'cloud.google.com/gke-spot'
  (mount,) = pod['containers'][0]['volumeMounts']
  (volume,) = pod['volumes']
  assert mount == {'name': volume['name'], 'mountPath': '/mnt/kd'}
  assert volume['csi']['volumeAttributes']['bucketName'] == 'bkt'


def played(manifest, code, disrupted=False):
  """What Kubernetes' documents say happens after a host's exit code."""
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


def test_exit_codes_decide(cloud):
  manifest = render(cloud, '--failures=5', '--', *LINE)
  assert played(manifest, 2) == 'FailJobSet'
  assert played(manifest, 3) == 'FailJobSet'
  assert played(manifest, 42) == 'host again, not counted'
  assert played(manifest, 143, disrupted=True) == 'host again, not counted'
  assert played(manifest, 1) == 'all again, 5 times'
  assert played(manifest, 137) == 'all again, 5 times'


def test_apply_and_delete_what_is_ours(cloud):
  code, _, err = gke(cloud, 'apply', '--', *LINE)
  assert code == 0, err
  here = yaml.safe_load(cloud.slice('kd-1b')['manifest'])
  assert here['metadata']['labels']['kd_launch']
  assert pod_of(here)[1]['containers'][0]['args'] == LINE
  for call in cloud.calls('kubectl'):
    assert call[1:3] == [
      '--context=gke_my-project_us-west4_kd',
      '--namespace=default',
    ]
  code, _, err = gke(cloud, 'apply', '--', *LINE)
  assert (code, 'is there already' in err) == (1, True), err
  assert gke(cloud, 'status')[0] == 0
  assert gke(cloud, 'logs')[0] == 0
  assert gke(cloud, 'delete')[0] == 0
  assert cloud.slice('kd-1b') is None
  code, _, err = gke(cloud, 'delete')
  assert (code, 'there is no JobSet' in err) == (0, True), err


def test_the_jobset_of_someone_else_is_left_alone(cloud):
  cloud.put_slice('kd-1b', {'manifest': 'kd_launch: "another"'})
  for verb in (['apply', '--', *LINE], ['delete']):
    assert gke(cloud, *verb)[0] == 1
  assert not cloud.calls('kubectl', 'apply')
  assert not cloud.calls('kubectl', 'delete')


def test_a_dry_run_and_a_cluster_that_does_not_answer(cloud):
  first = f'--settings={cloud.settings}'
  for verb in ('render', 'apply', 'status', 'logs', 'delete'):
    code, _, err = cloud.launch('launch/gke', verb, first, '--', *LINE)
    assert (code, err) == (0, '')
  assert cloud.calls() == []
  cloud.plan['kubectl_fails'] = True
  (cloud.root / 'plan.json').write_text(cloud_lib.json.dumps(cloud.plan))
  assert gke(cloud, 'apply', '--', *LINE)[0] == 1
  assert gke(cloud, 'delete')[0] == 1
  assert len(cloud.calls('kubectl')) == 2


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--topology=4'], ['topology', '4x4']),
    (['--topology=2x3'], ['2x3', '6 chips', 'chips_per_host=4']),
    (['--name=A'], ['name']),
    (['--spot=maybe'], ['spot', 'maybe']),
  ],
)
def test_a_wrong_setting_is_named(cloud, arguments, words):
  code, _, err = gke(cloud, 'render', *arguments, '--', *LINE)
  assert code == 2
  assert all(word in err for word in words), err
