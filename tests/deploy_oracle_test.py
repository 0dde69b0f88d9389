"""Tests manifests and alarms with Kubernetes' schemas and a PromQL parser."""

import copy

import yaml

from kd.config import base
from kd.modes import deploy as deploy_mode
from kd.monitoring import dashboard
from kd.monitoring import rules
from kd.versions import version_cases
from tests.oracles import client

# The second config uses all optional parts of a manifest.
_CHANGES = (
  {'deploy.model': 'gs://bucket/registry'},
  {
    'deploy.model': '/models/registry',
    'deploy.claim': 'models',
    'deploy.key_secret': 'kd-key',
    'deploy.devices': 'nvidia.com/gpu=1',
    'deploy.scale_on': 'queue',
    'deploy.memory_gib': 7.5,
    'deploy.cpus': 0.5,
  },
)


def _objects(tmp_path):
  """Returns the objects in the files of both configs."""
  model = version_cases.export(tmp_path / 'model')
  objects = []
  for number, changes in enumerate(_CHANGES):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    config.deploy.folder = str(tmp_path / f'deploy{number}')
    deploy_mode.main(config, None, ['manifests', model])
    with open(f'{config.deploy.folder}/kubernetes.yaml', encoding='utf-8') as f:
      text = f.read()
    assert '&' not in text  # No YAML anchors, which are hard to read.
    objects += yaml.safe_load_all(text)
  return objects


def test_manifests_conform_to_the_api(tmp_path):
  objects = _objects(tmp_path)
  kinds = [x['kind'] for x in objects]
  assert (
    kinds[:4]
    == kinds[4:]
    == [
      *('Deployment', 'Service', 'HorizontalPodAutoscaler'),
      'PodDisruptionBudget',
    ]
  )
  wrong = copy.deepcopy(objects[0])
  (container,) = wrong['spec']['template']['spec']['containers']
  container['readynessProbe'] = container.pop('readinessProbe')
  faults, _ = client.run(
    'deployment', 'objects', [*objects, wrong], {}, tmp_path / 'oracle'
  )
  assert not any(faults[:-1]), faults
  assert 'readynessProbe' in faults[-1]


def test_alarms_compare_metrics_with_their_limits(tmp_path):
  config = base.get_config()
  alarms = rules.alarms(config)
  expressions = [alarm.expression for alarm in alarms]
  for panel in dashboard.grafana(config)['panels']:
    expressions += [target['expr'] for target in panel['targets']]
  # A variable that Grafana replaces.
  cases = [x.replace('$__rate_interval', '5m') for x in expressions]
  comparisons, _ = client.run(
    'deployment', 'expressions', cases, {}, tmp_path / 'oracle'
  )
  expected = [['<' if a.is_minimum else '>', a.limit] for a in alarms]
  assert comparisons[: len(alarms)] == expected
  assert len(comparisons) == len(cases)  # All are valid PromQL.
