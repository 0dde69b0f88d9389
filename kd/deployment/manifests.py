"""Makes the Kubernetes objects for `kd serve` from the config."""

from collections.abc import Iterator
import math
from typing import Any

from kd.config import base
from kd.config.fields import serve as serve_fields
from kd.core import config as config_lib
from kd.core import errors
from kd.core import objects as objects_lib
from kd.monitoring import names
from kd.monitoring import webhook

KEY, WEBHOOK = 'api-key', 'webhook'  # Keys in the Secrets.
_SECTIONS = ('serve.', 'alarms.', 'follow.', 'registry.', 'generate.quantize.')
# Fields that are secrets.
_LEFT_OUT = ('alarms.webhook',)
_MODELS = '/models'
_HOME = '/home/kd'
_USER = 1000  # User id in launch/manifests/Dockerfile.
_PORT = 8000
_SCRATCH_GIB = 2.0
_PERIOD_S = 10
_DRAIN_S = 10  # Time until endpoints drop a terminating pod.
_END_S = 15  # Time for threads to end after the last request.


def objects(config: Any, needed_bytes: int) -> list[dict[str, Any]]:
  """Returns Deployment, Service, autoscaler and disruption budget.

  Args:
    config: the config.
    needed_bytes: memory of the weights and the KV cache, in bytes.

  Raises:
    ConfigError: the model has no path in a container, or the URL of the webhook
      has no Secret.
  """
  if config.alarms.webhook and not config.deploy.webhook_secret:
    raise errors.ConfigError(
      'alarms.webhook',
      'found a URL, which is a secret and is not written to a manifest',
      legal=f"deploy.webhook_secret, a Secret with the URL as {WEBHOOK}, or ''",
    )
  return [
    _object(config, 'apps/v1', 'Deployment', _deployment(config, needed_bytes)),
    _object(config, 'v1', 'Service', _service(config)),
    _object(
      config, 'autoscaling/v2', 'HorizontalPodAutoscaler', _autoscaler(config)
    ),
    _object(
      config,
      'policy/v1',
      'PodDisruptionBudget',
      # With minAvailable, a single replica could not move to another node.
      {'maxUnavailable': 1, 'selector': {'matchLabels': _labels(config)}},
    ),
  ]


def _object(config, version, kind, spec) -> dict[str, Any]:
  return {
    'apiVersion': version,
    'kind': kind,
    'metadata': {
      'name': config.deploy.name,
      'namespace': config.deploy.namespace,
      'labels': _labels(config),
    },
    'spec': spec,
  }


def _labels(config) -> dict[str, str]:
  return {
    'app.kubernetes.io/name': 'kd',
    'app.kubernetes.io/instance': config.deploy.name,
  }


def _port(config) -> int:
  return config.serve.port or _PORT


def _deployment(config, needed_bytes) -> dict[str, Any]:
  # No `replicas`, since applying the file again would override the autoscaler.
  return {
    'selector': {'matchLabels': _labels(config)},
    'strategy': {
      'type': 'RollingUpdate',
      'rollingUpdate': {'maxSurge': 1, 'maxUnavailable': 0},
    },
    'template': {
      'metadata': {
        'labels': _labels(config),
        'annotations': {
          'prometheus.io/scrape': 'true',
          'prometheus.io/path': '/metrics',
          'prometheus.io/port': str(_port(config)),
        },
      },
      'spec': _pod(config, needed_bytes),
    },
  }


def _pod(config, needed_bytes) -> dict[str, Any]:
  volumes = [{'name': 'home', 'emptyDir': {}}, {'name': 'tmp', 'emptyDir': {}}]
  if config.deploy.claim:
    claim = {'claimName': config.deploy.claim, 'readOnly': True}
    volumes.append({'name': 'models', 'persistentVolumeClaim': claim})
  return {
    'serviceAccountName': config.deploy.service_account,
    'terminationGracePeriodSeconds': _DRAIN_S
    + math.ceil(config.serve.stop_s)
    + _END_S,
    'securityContext': {
      'runAsNonRoot': True,
      'runAsUser': _USER,
      'runAsGroup': _USER,
      'fsGroup': _USER,
      'seccompProfile': {'type': 'RuntimeDefault'},
    },
    'topologySpreadConstraints': [
      {
        'maxSkew': 1,
        'topologyKey': 'kubernetes.io/hostname',
        'whenUnsatisfiable': 'ScheduleAnyway',
        'labelSelector': {'matchLabels': _labels(config)},
      }
    ],
    'containers': [_container(config, needed_bytes)],
    'volumes': volumes,
  }


def _container(config, needed_bytes) -> dict[str, Any]:
  c = config.deploy
  mounts = [
    {'name': 'home', 'mountPath': _HOME},
    {'name': 'tmp', 'mountPath': '/tmp'},
  ]
  if c.claim:
    mounts.append({'name': 'models', 'mountPath': _MODELS, 'readOnly': True})
  return {
    'name': 'kd',
    'image': c.image,
    'args': list(_arguments(config)),
    'env': _environment(c),
    'ports': [{'name': 'http', 'containerPort': _port(config)}],
    # On SIGTERM the server stops listening at once, while requests still come.
    'lifecycle': {'preStop': {'exec': {'command': ['sleep', str(_DRAIN_S)]}}},
    'resources': _resources(c, needed_bytes),
    'securityContext': {
      'allowPrivilegeEscalation': False,
      'readOnlyRootFilesystem': True,
      'capabilities': {'drop': ['ALL']},
    },
    # /health is 503 until all programs are compiled.
    'startupProbe': {
      **_health(),
      'periodSeconds': _PERIOD_S,
      'failureThreshold': math.ceil(c.start_s / _PERIOD_S),
    },
    'readinessProbe': {**_health(), 'periodSeconds': 5, 'failureThreshold': 2},
    'livenessProbe': {
      **_health(),
      'periodSeconds': _PERIOD_S,
      'timeoutSeconds': 5,
      'failureThreshold': 6,
    },
    'volumeMounts': mounts,
  }


def _health() -> dict[str, Any]:
  return {'httpGet': {'path': '/health', 'port': 'http'}}


def _arguments(config) -> Iterator[str]:
  """Yields the arguments of `kd serve`: the model and non-default fields."""
  yield 'serve'
  yield f'{config.deploy.name}={_model(config)}'
  changes = {'serve.host': '0.0.0.0', 'serve.port': _port(config)}
  if not config.deploy.key_secret:
    changes['serve.without_key'] = True
  defaults = base.get_config().to_dict()
  differences = config_lib.differences(defaults, config.to_dict())
  for path, _, value in differences:
    if path.startswith(_SECTIONS) and path not in _LEFT_OUT:
      changes.setdefault(path, value)
  # Kubernetes would replace $(NAME) by the value of a variable.
  for path, value in sorted(changes.items()):
    yield f'--config.{path}={value}'.replace('$(', '$$(')


def _model(config) -> str:
  """Returns the path of the model in the container."""
  path = config.deploy.model or config.registry.folder
  if not objects_lib.is_url(path) and not path.startswith('/'):
    raise errors.ConfigError(
      'deploy.model',
      f'found {config.deploy.model!r}, and registry.folder is {path!r}',
      legal='a folder in a bucket, or an absolute path in the container, such '
      f'as {_MODELS}/registry with deploy.claim',
    )
  return path


def _environment(c) -> list[dict[str, Any]]:
  variables = [{'name': 'HOME', 'value': _HOME}]
  for variable, secret, key in (
    (serve_fields.KEY_VARIABLE, c.key_secret, KEY),
    (webhook.VARIABLE, c.webhook_secret, WEBHOOK),
  ):
    if secret:
      source = {'secretKeyRef': {'name': secret, 'key': key}}
      variables.append({'name': variable, 'valueFrom': source})
  return variables


def _resources(c, needed_bytes) -> dict[str, Any]:
  gib = c.memory_gib or needed_bytes / 2**30 + _SCRATCH_GIB
  memory = f'{math.ceil(gib * 1024)}Mi'
  limits = {'memory': memory}
  if c.devices:
    name, _, count = c.devices.partition('=')
    limits[name] = count
  # No CPU limit, which would slow a replica down even on an idle node.
  return {'requests': {'cpu': f'{c.cpus:g}', **limits}, 'limits': limits}


def _service(config) -> dict[str, Any]:
  return {
    'type': 'ClusterIP',
    'selector': _labels(config),
    'ports': [{'name': 'http', 'port': 80, 'targetPort': 'http'}],
  }


def _autoscaler(config) -> dict[str, Any]:
  c = config.deploy
  if c.scale_on == 'cpu':
    target = {'type': 'Utilization'}
    target['averageUtilization'] = round(100 * c.cpu_target)
    metric = {'type': 'Resource', 'resource': {'name': 'cpu', 'target': target}}
  else:
    target = {'type': 'AverageValue', 'averageValue': str(c.queue_target)}
    pods = {'metric': {'name': names.WAITING}, 'target': target}
    metric = {'type': 'Pods', 'pods': pods}
  return {
    'scaleTargetRef': {
      'apiVersion': 'apps/v1',
      'kind': 'Deployment',
      'name': c.name,
    },
    'minReplicas': c.min_replicas,
    'maxReplicas': c.max_replicas,
    'metrics': [metric],
    # Scales down slowly, because a new replica must compile its programs.
    'behavior': {'scaleDown': {'stabilizationWindowSeconds': 600}},
  }
