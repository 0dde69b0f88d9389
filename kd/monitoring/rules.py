"""Defines the alarms of section `alarms`, and their rules for Prometheus."""

import dataclasses
from typing import Any

from kd.monitoring import measures
from kd.monitoring import names


@dataclasses.dataclass(frozen=True)
class Alarm:
  """An alerting condition.

  Attributes:
    name: name of the alert.
    value: PromQL expression of the monitored value.
    measure: the same value in a server; None if only Prometheus can measure it.
    limit: limit in the unit of the value.
    is_minimum: whether the limit is a minimum, not a maximum.
    unit: unit of the value, as a Grafana unit id.
    title: description of the value.
    advice: instructions for the operator.
  """

  name: str
  value: str
  measure: measures.Measure | None
  limit: float
  is_minimum: bool
  unit: str
  title: str
  advice: str

  @property
  def expression(self) -> str:
    """Returns the PromQL expression that has a value while the alarm is on."""
    return f'({self.value}) {"<" if self.is_minimum else ">"} {self.limit:g}'

  def is_beyond(self, value: float) -> bool:
    """Returns whether the alarm is on at a value; NaN is no data."""
    return value < self.limit if self.is_minimum else value > self.limit

  def summary(self, value: str) -> str:
    """Returns the value and its limit as text."""
    bound = 'at least' if self.is_minimum else 'at most'
    return f'{self.title}: {value}, limit: {bound} {self.limit:g}'


def alarms(config: Any) -> list[Alarm]:
  """Returns the alarms of a config.

  Args:
    config: the config, with sections `alarms` and `serve`.
  """
  c = config.alarms
  places = max(config.serve.queue, 1)
  window_s = int(c.window_s)

  def measured(name, measure, *rest):
    return Alarm(name, measure.promql(window_s), measure, *rest)

  return [
    measured(
      'KdLatency',
      measures.Quantile(0.95, names.FIRST_TOKEN_S),
      c.p95_ms / 1000,
      False,
      's',
      'seconds to the first token, 95th percentile',
      'add replicas or lower serve.max_batch; compare versions on the '
      'dashboard, and roll back one that is slower',
    ),
    measured(
      'KdErrors',
      # Status 429 is not a failure: the client was asked to wait.
      measures.Share(names.REQUESTS, names.REQUESTS, code='5..'),
      c.error_rate,
      False,
      'percentunit',
      'share of requests that fail or are too late',
      "read the server's log; kd registry rollback if the version is new",
    ),
    measured(
      'KdQueue',
      measures.Mean(names.WAITING, places),
      c.queue,
      False,
      'percentunit',
      'fullest queue of a replica, as a share of serve.queue',
      'add replicas: raise deploy.max_replicas if all of them run',
    ),
    measured(
      'KdMemory',
      measures.Peak(names.MEMORY_BYTES, names.MEMORY_LIMIT_BYTES),
      c.memory,
      False,
      'percentunit',
      'fullest memory, of hosts and devices',
      'lower serve.max_batch or serve.max_length, or give more memory',
    ),
    measured(
      'KdDrift',
      measures.Share(names.AGREEING_TOKENS, names.COMPARED_TOKENS),
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
      None,
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
              'summary': alarm.summary('{{ $value | humanize }}'),
              'description': alarm.advice,
            },
          }
          for alarm in alarms(config)
        ],
      }
    ]
  }
