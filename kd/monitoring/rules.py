"""Makes Prometheus alerting rules from section `alarms` of the config."""

import dataclasses
from typing import Any

from kd.monitoring import names

_RANGE = '[{seconds}s]'


@dataclasses.dataclass(frozen=True)
class Alarm:
  """An alerting condition.

  Attributes:
    name: name of the alert.
    value: PromQL expression of the monitored value.
    limit: limit in the unit of the value.
    is_minimum: whether the limit is a minimum, not a maximum.
    unit: unit of the value, as a Grafana unit id.
    title: description of the value.
    advice: instructions for the operator.
  """

  name: str
  value: str
  limit: float
  is_minimum: bool
  unit: str
  title: str
  advice: str

  @property
  def expression(self) -> str:
    """Returns the PromQL expression that has a value while the alarm is on."""
    return f'({self.value}) {"<" if self.is_minimum else ">"} {self.limit:g}'


def alarms(config: Any) -> list[Alarm]:
  """Returns the alarms of a config.

  Args:
    config: the config, with sections `alarms` and `serve`.
  """
  c = config.alarms
  places = max(config.serve.queue, 1)
  window = _RANGE.format(seconds=int(c.window_s))

  def rate(name, labels='', by=''):
    return f'sum{by}(rate({name}{labels}{window}))'

  latency = rate(f'{names.FIRST_TOKEN_S}_bucket', by=' by (le) ')
  # Status 429 is not a failure: the client was asked to wait.
  failed = rate(names.REQUESTS, '{code=~"5.."}')
  return [
    Alarm(
      'KdLatency',
      f'histogram_quantile(0.95, {latency})',
      c.p95_ms / 1000,
      False,
      's',
      'time to the first token, 95th percentile',
      'add replicas or lower serve.max_batch; compare versions on the '
      'dashboard, and roll back one that is slower',
    ),
    Alarm(
      'KdErrors',
      f'({failed} or vector(0)) / {rate(names.REQUESTS)}',
      c.error_rate,
      False,
      'percentunit',
      'share of requests that fail or are too late',
      "read the server's log; kd registry rollback if the version is new",
    ),
    Alarm(
      'KdQueue',
      f'max(sum by (instance) (avg_over_time({names.WAITING}{window}))) / '
      f'{places}',
      c.queue,
      False,
      'percentunit',
      'fullest queue of a replica, as a share of serve.queue',
      'add replicas: raise deploy.max_replicas if all of them run',
    ),
    Alarm(
      'KdMemory',
      f'max(max_over_time({names.MEMORY_BYTES}{window}) / '
      f'{names.MEMORY_LIMIT_BYTES})',
      c.memory,
      False,
      'percentunit',
      'fullest memory, of hosts and devices',
      'lower serve.max_batch or serve.max_length, or give more memory',
    ),
    Alarm(
      'KdDrift',
      f'{rate(names.AGREEING_TOKENS)} / {rate(names.COMPARED_TOKENS)}',
      c.agreement,
      True,
      'percentunit',
      "tokens that are the teacher's first choice",
      'requests may differ from the training data: evaluate on a sample of '
      'them, and distill again',
    ),
    Alarm(
      'KdDown',
      f'count({names.READY} == 1) or vector(0)',
      1,
      True,
      'short',
      'replicas that are ready',
      'kubectl get pods, and the log of the last one that ended',
    ),
  ]


def prometheus(config: Any) -> dict[str, Any]:
  """Returns a file of alerting rules for Prometheus, as JSON."""
  return {
    'groups': [
      {
        'name': 'kd',
        'rules': [
          {
            'alert': alarm.name,
            'expr': alarm.expression,
            'for': f'{int(config.alarms.for_s)}s',
            'labels': {'severity': 'page'},
            'annotations': {
              'summary': (
                f'{alarm.title}: {{{{ $value | humanize }}}}, limit: '
                f'{"at least" if alarm.is_minimum else "at most"} '
                f'{alarm.limit:g}'
              ),
              'description': alarm.advice,
            },
          }
          for alarm in alarms(config)
        ],
      }
    ]
  }
