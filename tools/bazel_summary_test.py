"""Tests of the last line of .ci/run on event files in Bazel's format."""

import json

import pytest

from tools import bazel_summary

_XML = """<testsuites><testsuite>
<testcase classname="kd.a_test" name="good"/>
<testcase classname="kd.a_test" name="bad"><failure>no</failure></testcase>
<testcase classname="kd.a_test" name="later"><skipped/></testcase>
</testsuite></testsuites>"""
_GOOD = '<testsuites><testcase classname="a" name="b"/></testsuites>'


def _result(tmp_path, label, status, xml=None, attempt=1):
  outputs = []
  if xml is not None:
    path = tmp_path / f'{label.strip("/").replace(":", "_")}{attempt} x.xml'
    path.write_text(xml)
    outputs.append({'name': 'test.xml', 'uri': path.as_uri()})
  return {
    'id': {'testResult': {'label': label, 'attempt': attempt}},
    'testResult': {'status': status, 'testActionOutput': outputs},
  }


@pytest.fixture
def run(tmp_path, capsys):
  def call(events, code, *checks):
    path = tmp_path / 'events'
    path.write_text('\n'.join(json.dumps(e) for e in events))
    exit_code = bazel_summary.main([str(path), str(code), *checks])
    return exit_code, capsys.readouterr().out.splitlines()

  return call


def test_cases_and_checks_are_counted(run, tmp_path):
  events = [_result(tmp_path, '//a:test', 'FAILED', _XML)]
  assert run(events, 3, 'ruff=0', 'layers=1') == (
    1,
    [
      'FAILED //a:test kd.a_test.bad',
      'FAILED layers',
      '2 passed, 2 failed, 1 skipped',
    ],
  )


def test_only_the_last_attempt_counts(run, tmp_path):
  events = [
    _result(tmp_path, '//a:test', 'FAILED', _XML),
    _result(tmp_path, '//a:test', 'FLAKY', _GOOD, attempt=2),
  ]
  assert run(events, 0) == (0, ['1 passed, 0 failed'])


def test_time_out_without_a_report_fails(run, tmp_path):
  exit_code, lines = run([_result(tmp_path, '//a:test', 'TIMEOUT')], 3)
  assert exit_code == 1
  assert lines == ['FAILED //a:test (timeout)', '0 passed, 1 failed']


def test_target_that_does_not_build_fails(run, tmp_path):
  events = [
    _result(tmp_path, '//b:test', 'PASSED', _GOOD),
    {'id': {'targetCompleted': {'label': '//a:test'}}, 'completed': {}},
    {
      'id': {'configuredLabel': {'label': '//c:test'}},
      'aborted': {'reason': 'ANALYSIS_FAILURE'},
    },
  ]
  exit_code, lines = run(events, 1)
  assert exit_code == 1
  assert lines[:2] == [
    'FAILED //a:test (was not built)',
    'FAILED //c:test (ANALYSIS_FAILURE)',
  ]


def test_nothing_run_is_a_failure(run):
  assert run([], 0, 'ruff=0') == (1, ['1 passed, 0 failed'])
  assert run([], 37, 'ruff=0')[1][-1] == '1 passed, 1 failed'
