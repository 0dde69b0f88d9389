"""Fields of production: versions, alarms, deployment."""

from kd.config import legal
from kd.config import places
from kd.config import schema
from kd.core import verdict_names

F = schema.Field

REGISTRY = schema.Section(
  'Versions of a model (`kd registry`, docs/versions.md).',
  {
    'folder': F(
      'kd-registry',
      places.Path('folder'),
      'folder of the registry',
    ),
    'admit': F(
      (verdict_names.SHIP,),
      legal.Tuple(legal.one_of(*verdict_names.VERDICTS), least=1),
      'benchmark verdicts that allow promotion of a version',
    ),
    'compatible': F(
      ('tokenizer', 'template', 'context', 'images'),
      legal.Tuple(legal.one_of('tokenizer', 'template', 'context', 'images')),
      'properties that a version must share with the one in production; '
      'context: at least as many positions',
    ),
    'keep': F(3, legal.COUNT, 'number of latest candidates that prune keeps'),
  },
)

_SHARE = legal.Number(above=0, at_most=1)
_NAME = legal.Matching(
  r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?', 'a name in Kubernetes, 40 letters at most'
)
_OPTIONAL_NAME = legal.Matching(
  r'|[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?', "a name in Kubernetes, or ''"
)

ALARMS = schema.Section(
  'Limits of a server, each with an alarm (docs/deploy.md).',
  {
    'p95_ms': F(
      500.0,
      legal.Number(above=0, at_most=1e7),
      'ms to the first token, 95th percentile',
    ),
    'error_rate': F(
      0.01, _SHARE, 'share of requests that fail or miss their deadline'
    ),
    'queue': F(0.8, _SHARE, 'share of serve.queue that is occupied'),
    'memory': F(0.95, _SHARE, "share of the host's and the devices' memory"),
    'agreement': F(
      0.5,
      _SHARE,
      'in answers that are compared with the teacher: minimum share of tokens '
      "that are the teacher's first choice",
    ),
    'window_s': F(
      300, legal.Integer(30, 86_400), 'seconds over which a value is measured'
    ),
    'for_s': F(
      60, legal.Integer(0, 86_400), 'seconds over the limit before an alarm'
    ),
    'webhook': F(
      '',
      legal.Matching(r'|https?://\S+', "a URL, or ''"),
      "URL to which alarms are posted as JSON; '': the URL in the environment "
      'variable KD_ALARMS_WEBHOOK, if it is set',
    ),
    'prometheus': F(
      '',
      legal.Matching(r'|https?://\S+', "a URL, or ''"),
      'Prometheus server that `kd deploy check` queries for the alarms',
    ),
  },
)

CHECKS = (
  *('hardware', 'memory', 'versions', 'digests', 'configs'),
  *('data', 'ports', 'disk', 'monitoring', 'alarms'),
)
DEPLOY = schema.Section(
  'Kubernetes manifests (`kd deploy`, docs/deploy.md).',
  {
    'checks': F(
      CHECKS,
      legal.Tuple(legal.one_of(*CHECKS), least=1),
      'checks of `kd deploy check`, in this order',
    ),
    'folder': F('kd-deploy', places.Path('folder'), 'folder for the manifests'),
    'name': F('kd-serve', _NAME, 'name of all objects'),
    'namespace': F('default', _NAME, 'their namespace'),
    'image': F(
      'kd',
      legal.Matching(r'[a-z0-9][-a-z0-9._/:@]*', "a container image's name"),
      'the image of launch/manifests/Dockerfile',
    ),
    'model': F(
      '',
      places.Path('model', optional=True),
      'path of the model or registry in the container, such as '
      "/models/registry or a bucket's URL; '': registry.folder",
    ),
    'claim': F(
      '',
      _OPTIONAL_NAME,
      "PersistentVolumeClaim to mount at /models; '': none",
    ),
    'key_secret': F(
      '',
      _OPTIONAL_NAME,
      "Secret with the server's API key as api-key; '': requests need none",
    ),
    'webhook_secret': F(
      '',
      _OPTIONAL_NAME,
      "Secret with the URL for alarms as webhook; '': none",
    ),
    'service_account': F(
      'default', _NAME, 'service account, which may read the bucket'
    ),
    'min_replicas': F(1, legal.Integer(1, 1000), 'minimum number of replicas'),
    'max_replicas': F(10, legal.Integer(1, 1000), 'maximum number of replicas'),
    'scale_on': F(
      'cpu',
      legal.one_of('cpu', 'queue'),
      'metric that sets the number of replicas; queue needs an adapter for '
      'Prometheus metrics',
    ),
    'cpu_target': F(0.7, _SHARE, 'target share of the requested CPUs in use'),
    'queue_target': F(
      4,
      legal.Integer(1, 10**6),
      'target number of waiting requests per replica',
    ),
    'cpus': F(
      2.0, legal.Number(above=0, at_most=1024), 'CPUs that a replica requests'
    ),
    'memory_gib': F(
      0.0,
      legal.Number(at_least=0, at_most=2**20),
      'memory of a replica; 0: that of weights and KV cache, plus 2 GiB',
    ),
    'devices': F(
      '',
      legal.Matching(
        r'|[a-z0-9.-]+/[a-z0-9.-]+=[1-9]\d*', "as NAME=COUNT, or ''"
      ),
      "accelerators of a replica, such as nvidia.com/gpu=1; '': none",
    ),
    'start_s': F(
      900,
      legal.Integer(10, 86_400),
      'seconds within which a replica must have loaded and compiled',
    ),
  },
)

FOLLOW = schema.Section(
  'How `kd serve REGISTRY` follows a registry (docs/versions.md).',
  {
    'poll_s': F(10.0, legal.DURATION, 'seconds between reads of the registry'),
    'canary_share': F(
      0.1,
      legal.Number(at_least=0, at_most=1),
      'share of requests that a canary answers',
    ),
    'fallback': F(
      '',
      places.Path('model', optional=True),
      'model that serves while the production version is out of service, such '
      "as the teacher; '': the version before it",
    ),
    'teacher': F(
      '',
      places.Path('model', optional=True),
      "model with which answers are compared, with or without a registry; '': "
      'none',
    ),
    'compared_share': F(
      0.01,
      legal.Number(at_least=0, at_most=1),
      'share of answers that are compared',
    ),
    'fewest': F(
      20,
      legal.POSITIVE,
      'minimum number of requests within alarms.window_s before '
      'alarms.error_rate and alarms.p95_ms apply to a version',
    ),
    'probe_s': F(
      10.0,
      legal.DURATION,
      'seconds between probes of a version that is out of service',
    ),
    'probes': F(
      3, legal.POSITIVE, 'consecutive successful probes that restore it'
    ),
  },
)
