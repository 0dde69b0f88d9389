"""Makes a Grafana dashboard of the alarms and related metrics."""

from collections.abc import Sequence
from typing import Any

from kd.monitoring import names
from kd.monitoring import rules

_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24
_SCHEMA = 39  # Classic model of Grafana 10 and later.
_SOURCE = {'type': 'prometheus', 'uid': '${source}'}


def grafana(config: Any) -> dict[str, Any]:
  """Returns the dashboard as JSON for Grafana.

  Args:
    config: the config; see rules.alarms.
  """
  panels = [
    _panel(a.title, a.unit, [(a.value, '')], a) for a in rules.alarms(config)
  ]
  panels += [_panel(*more) for more in _explanations()]
  for number, panel in enumerate(panels):
    left = number * _WIDTH % _COLUMNS
    top = number * _WIDTH // _COLUMNS * _HEIGHT
    panel['id'] = number + 1
    panel['gridPos'] = {'x': left, 'y': top, 'w': _WIDTH, 'h': _HEIGHT}
  return {
    'uid': config.deploy.name,
    'title': config.deploy.name,
    'tags': ['kd'],
    'timezone': 'browser',
    'schemaVersion': _SCHEMA,
    'refresh': '30s',
    'time': {'from': 'now-6h', 'to': 'now'},
    'templating': {
      'list': [{'name': 'source', 'type': 'datasource', 'query': 'prometheus'}]
    },
    'panels': panels,
  }


def _explanations():
  """Yields title, unit and (expression, legend) pairs of further panels."""
  rate = '[$__rate_interval]'
  yield (
    'requests by status',
    'reqps',
    [(f'sum by (code) (rate({names.REQUESTS}{rate}))', '{{code}}')],
  )
  yield (
    'tokens per second',
    'short',
    [(f'sum by (kind) (rate({names.TOKENS}{rate}))', '{{kind}}')],
  )
  yield (
    'time of a whole request',
    's',
    [
      (
        f'histogram_quantile({q}, '
        f'sum by (le) (rate({names.REQUEST_S}_bucket{rate})))',
        f'p{q * 100:g}',
      )
      for q in (0.5, 0.95, 0.99)
    ],
  )
  yield (
    'answers in the batch, and prompts that wait',
    'short',
    [(f'sum({names.RUNNING})', 'run'), (f'sum({names.WAITING})', 'wait')],
  )
  yield (
    'memory',
    'bytes',
    [(f'max by (kind) ({names.MEMORY_BYTES})', '{{kind}}')],
  )
  yield (
    'replicas by version',
    'short',
    [
      (
        f'count by (version, stage) ({names.VERSION})',
        '{{version}} {{stage}}',
      )
    ],
  )


def _panel(
  title: str,
  unit: str,
  queries: Sequence[tuple[str, str]],
  alarm: rules.Alarm | None = None,
) -> dict[str, Any]:
  custom, steps = {}, [{'color': 'green', 'value': None}]
  if alarm:
    custom = {'thresholdsStyle': {'mode': 'line+area'}}
    steps.append({'color': 'red', 'value': alarm.limit})
    if alarm.is_minimum:
      steps = [
        {'color': 'red', 'value': None},
        {'color': 'green', 'value': alarm.limit},
      ]
  return {
    'type': 'timeseries',
    'title': title,
    'description': alarm.advice if alarm else '',
    'datasource': _SOURCE,
    'fieldConfig': {
      'defaults': {
        'unit': unit,
        'custom': custom,
        'thresholds': {'mode': 'absolute', 'steps': steps},
      },
      'overrides': [],
    },
    'targets': [
      {
        'refId': chr(ord('A') + i),
        'datasource': _SOURCE,
        'expr': expression,
        'legendFormat': legend,
      }
      for i, (expression, legend) in enumerate(queries)
    ],
  }
