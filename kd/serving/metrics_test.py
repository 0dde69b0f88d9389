"""Tests that a server exposes the metrics of alarms and dashboard."""

from prometheus_client import parser

from kd.monitoring import names
from kd.serving import metrics as metrics_lib


def test_every_metric_of_the_alarms_is_exposed():
  metrics = metrics_lib.Metrics()
  metrics.ended('model', '/v1/completions', 200, 0.1)
  metrics.tokens('model', 1, 2)
  metrics.first_token('model', 0.1)
  metrics.waiting('model').set(0)
  metrics.running('model').set(0)
  metrics.failed('model').set(0)
  metrics.versions({'production': 'v1'})
  metrics.versions({'production': 'v2', 'fallback': 'v1'})
  metrics.compared(10, 9)
  families = parser.text_string_to_metric_families(metrics.text(True).decode())
  samples = [sample for family in families for sample in family.samples]
  exposed = {sample.name for sample in samples}
  known = {value for key, value in vars(names).items() if key.isupper()}
  counted = {name.removesuffix('_count') for name in exposed}
  assert known <= exposed | counted, known - exposed - counted
  versions = [s.labels for s in samples if s.name == names.VERSION]
  assert {x['version']: x['stage'] for x in versions} == {
    'v2': 'production',
    'v1': 'fallback',
  }
  by_kind = {
    (s.name, s.labels['kind']): s.value
    for s in samples
    if s.name in (names.MEMORY_BYTES, names.MEMORY_LIMIT_BYTES)
  }
  used = by_kind[names.MEMORY_BYTES, 'host']
  assert 1e7 < used < by_kind[names.MEMORY_LIMIT_BYTES, 'host']
