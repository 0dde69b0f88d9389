"""Tests that Prometheus and servers raise alarms at the same limits."""

import json
import re
import shutil
import subprocess

import pytest

from kd.config import base
from kd.monitoring import dashboard
from kd.monitoring import names
from kd.monitoring import rules
from kd.monitoring import watch as watch_lib

# Good and bad series by alarm. Each is a name with labels, and its values per
# minute in the notation of promtool.
_SERIES = {
  'KdLatency': [
    {
      f'{names.FIRST_TOKEN_S}_bucket{{le="0.25"}}': f'0+{fast}x9',
      f'{names.FIRST_TOKEN_S}_bucket{{le="0.5"}}': f'0+{fast}x9',
      f'{names.FIRST_TOKEN_S}_bucket{{le="1"}}': '0+100x9',
      f'{names.FIRST_TOKEN_S}_bucket{{le="+Inf"}}': '0+100x9',
    }
    for fast in (96, 94)
  ],
  'KdErrors': [
    {
      f'{names.REQUESTS}{{code="200"}}': '0+1000x9',
      f'{names.REQUESTS}{{code="429"}}': '0+1000x9',
      f'{names.REQUESTS}{{code="504"}}': f'0+{failed}x9',
    }
    for failed in (19, 22)
  ],
  'KdQueue': [
    {
      f'{names.WAITING}{{instance="a",model="x"}}': '1x9',
      f'{names.WAITING}{{instance="b",model="x"}}': f'{waiting}x9',
      f'{names.WAITING}{{instance="b",model="y"}}': '30x9',
    }
    for waiting in (20, 22)
  ],
  'KdMemory': [
    {
      f'{names.MEMORY_BYTES}{{kind="host"}}': f'{used}x9',
      f'{names.MEMORY_LIMIT_BYTES}{{kind="host"}}': '100x9',
    }
    for used in (94, 96)
  ],
  'KdDrift': [
    {
      names.COMPARED_TOKENS: '0+100x9',
      names.AGREEING_TOKENS: f'0+{agreeing}x9',
    }
    for agreeing in (51, 49)
  ],
  'KdDown': [{names.READY: '1x9'}, {names.READY: '0x9'}],
}
_HAS_PROMTOOL = shutil.which('promtool') is not None


def _scrapes(series):
  """Returns each minute's samples of series in promtool's notation.

  Of several instances, those of the fullest: a server has only its own samples.
  """
  scrapes = []
  for minute in range(10):
    samples = {}
    for key, values in series.items():
      name, _, text = key.partition('{')
      labels = dict(re.findall(r'(\w+)="(.*?)"', text))
      start, step = re.fullmatch(r'(\d+)(\+\d+)?x9', values).groups()
      if labels.get('instance') != 'a':
        value = float(start) + minute * float(step or 0)
        samples.setdefault(name, []).append((labels, value))
    scrapes.append(samples)
  return scrapes


def _unit_test(series, is_on, rule, alarm):
  """Returns a test of promtool: an alarm's state and value after 9 minutes."""
  value = 1.0 - is_on
  if alarm.measure:
    # A window contains both of its ends.
    readings = [alarm.measure.read(x) for x in _scrapes(series)[-6:]]
    value = alarm.measure.over(readings)
  return {
    'interval': '1m',
    'input_series': [
      {'series': key, 'values': values} for key, values in series.items()
    ],
    'promql_expr_test': [
      {
        'expr': f'count({rule["expr"]}) or vector(0)',
        'eval_time': '9m',
        'exp_samples': [{'labels': '{}', 'value': int(is_on)}],
      },
      {
        'expr': f'abs(({alarm.value}) - {value!r}) < bool 1e-9',
        'eval_time': '9m',
        'exp_samples': [{'labels': '{}', 'value': 1}],
      },
    ],
  }


@pytest.mark.skipif(
  not _HAS_PROMTOOL, reason='no promtool: apt-get install prometheus'
)
def test_prometheus_fires_each_alarm_at_its_limit(tmp_path):
  # JSON is YAML too.
  config = base.get_config()
  file = rules.prometheus(config)
  alarms = {alarm.name: alarm for alarm in rules.alarms(config)}
  (tmp_path / 'alarms.yaml').write_text(json.dumps(file))
  by_name = {rule['alert']: rule for rule in file['groups'][0]['rules']}
  assert by_name.keys() == _SERIES.keys()
  tests = [
    _unit_test(series, is_on, by_name[name], alarms[name])
    for name, pair in _SERIES.items()
    for is_on, series in zip((False, True), pair, strict=True)
  ]
  value = {
    'rule_files': ['alarms.yaml'],
    'evaluation_interval': '1m',
    'tests': tests,
  }
  (tmp_path / 'tests.yaml').write_text(json.dumps(value))
  for command in (
    ['check', 'rules', 'alarms.yaml'],
    ['test', 'rules', 'tests.yaml'],
  ):
    done = subprocess.run(
      ['promtool', *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _changes(alarms, scrapes, for_s=0):
  """Returns minute, name and state of each change."""
  watch = watch_lib.Watch(alarms, 300, for_s)
  return [
    (minute, change.alarm.name, change.is_on)
    for minute, samples in enumerate(scrapes)
    for change in watch.update(60.0 * minute, samples)
  ]


def test_servers_raise_each_alarm_at_its_limit():
  alarms = rules.alarms(base.get_config())
  measured = [alarm for alarm in alarms if alarm.measure]
  assert [alarm.name for alarm in alarms if not alarm.measure] == ['KdDown']
  for alarm in measured:
    good, bad = map(_scrapes, _SERIES[alarm.name])
    assert _changes([alarm], good) == []
    # A rate needs two samples.
    since = 0 if alarm.name in ('KdQueue', 'KdMemory') else 1
    assert _changes([alarm], bad) == [(since, alarm.name, True)]
    # Once, after two minutes over the limit.
    assert _changes([alarm], bad, 120) == [(since + 2, alarm.name, True)]


def test_alarms_end_with_their_window():
  (errors,) = [
    alarm
    for alarm in rules.alarms(base.get_config())
    if alarm.name == 'KdErrors'
  ]
  count = lambda failed, all_: {
    names.REQUESTS: [({'code': '500'}, failed), ({'code': '200'}, all_)]
  }
  # Two failures in the second minute, of 20 requests per minute.
  scrapes = [count(2 * (minute > 1), 20 * minute) for minute in range(12)]
  assert _changes([errors], scrapes) == [
    (2, 'KdErrors', True),
    (7, 'KdErrors', False),
  ]
  watch = watch_lib.Watch([errors], 300, 0)
  assert watch.update(0, count(0, 0)) == []
  (started,) = watch.update(10, count(1, 3))
  assert started.text.startswith(
    'KdErrors: share of requests that fail or are too late: 0.25, limit: '
    "at most 0.01; read the server's log"
  )
  (ended,) = watch.update(400, count(1, 3))
  assert ended.text.endswith('too late: no data, limit: at most 0.01')
  assert ended.fields()['value'] is None


def test_limits_equal_the_configs():
  config = base.get_config()
  config.alarms.p95_ms, config.alarms.window_s = 250.0, 120
  latency, *_ = rules.prometheus(config)['groups'][0]['rules']
  assert latency['expr'].endswith('> 0.25')
  assert '[120s]' in latency['expr']
  panel, *_ = dashboard.grafana(config)['panels']
  (_, red) = panel['fieldConfig']['defaults']['thresholds']['steps']
  assert red == {'color': 'red', 'value': 0.25}


def test_the_dashboard_shows_each_alarm_and_no_panel_twice():
  config = base.get_config()
  panels = dashboard.grafana(config)['panels']
  shown = {t['expr'] for panel in panels for t in panel['targets']}
  assert shown >= {alarm.value for alarm in rules.alarms(config)}
  places = [tuple(p['gridPos'].values()) for p in panels]
  assert len({*places}) == len({p['id'] for p in panels}) == len(panels)
  assert all(x + w <= 24 for x, _, w, _ in places)
  known = {value for key, value in vars(names).items() if key.isupper()}
  used = set(
    re.findall(r'kd_\w+', json.dumps([panels, rules.prometheus(config)]))
  )
  used = {re.sub('_bucket$', '', name) for name in used}
  assert used <= known, used - known
