"""Counts the test cases of one `bazel test` from its build event file.

Usage: bazel_summary.py EVENTS EXIT_CODE [CHECK=EXIT_CODE]...

Prints each failed case and ends with 'N passed, N failed' and the number of
skipped cases; every CHECK counts as one case. The event file lists the test.xml
files of this run, including cached ones, while bazel-testlogs would also
contain those of earlier runs. Uses only the standard library.
"""

import collections
import json
import sys
import urllib.parse
import xml.etree.ElementTree as ET


def main(argv):
  events_path, code, *checks = argv
  with open(events_path, encoding='utf-8') as f:
    events = [json.loads(line) for line in f]
  outcomes = [(name, 'failed') for name in broken_targets(events)]
  for label, result in test_results(events):
    outcomes += [(f'{label} {c}', o) for c, o in target_cases(label, result)]
  if int(code) and not any(o == 'failed' for _, o in outcomes):
    outcomes.append((f'bazel test (exit code {code})', 'failed'))
  for check in checks:
    name, _, status = check.partition('=')
    outcomes.append((name, 'failed' if int(status) else 'passed'))
  for name, outcome in outcomes:
    if outcome == 'failed':
      print(f'FAILED {name}')
  count = collections.Counter(outcome for _, outcome in outcomes)
  skipped = f', {count["skipped"]} skipped' if count['skipped'] else ''
  print(f'{count["passed"]} passed, {count["failed"]} failed{skipped}')
  return int(count['failed'] > 0 or count['passed'] == len(checks))


def broken_targets(events):
  """Yields 'label (why)' for every target that could not be built."""
  broken = {}
  for event in events:
    kinds = event['id']
    if 'aborted' in event:
      labels = [v['label'] for v in kinds.values() if v.get('label')]
      why = event['aborted'].get('description') or event['aborted']['reason']
      broken[labels[0] if labels else next(iter(kinds))] = why
    elif 'targetCompleted' in kinds and not event['completed'].get('success'):
      broken.setdefault(kinds['targetCompleted']['label'], 'was not built')
  for label, why in sorted(broken.items()):
    yield f'{label} ({why})'


def test_results(events):
  """Returns sorted (label, result) of each shard and run's last attempt."""
  latest = {}
  for event in events:
    key = event['id'].get('testResult')
    if key:
      place = key['label'], key.get('shard', 1), key.get('run', 1)
      attempt = key.get('attempt', 1)
      if attempt >= latest.get(place, (0, None))[0]:
        latest[place] = attempt, event.get('testResult', {})
  return [(place[0], latest[place][1]) for place in sorted(latest)]


def target_cases(label, result):
  """Returns the (name, outcome) pairs of a result, with one if it failed."""
  status = result.get('status', 'NO_STATUS')
  found = []
  for output in result.get('testActionOutput', []):
    if output['name'] == 'test.xml' and 'uri' in output:
      path = urllib.parse.unquote(urllib.parse.urlparse(output['uri']).path)
      try:
        found += xml_cases(path)
      except (OSError, ET.ParseError) as e:
        print(f'{label}: no readable test.xml: {e}')
  failed = any(outcome == 'failed' for _, outcome in found)
  if status not in ('PASSED', 'FLAKY') and not failed:
    found.append((f'({status.lower()})', 'failed'))  # A time-out or a crash.
  return found


def xml_cases(path):
  """Returns (name, outcome) for every case in a JUnit XML file."""
  cases = []
  for case in ET.parse(path).getroot().iter('testcase'):
    name = '.'.join(filter(None, (case.get('classname'), case.get('name'))))
    kinds = {child.tag for child in case}
    outcome = 'skipped' if 'skipped' in kinds else 'passed'
    cases.append((name, 'failed' if kinds & {'failure', 'error'} else outcome))
  return cases


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
