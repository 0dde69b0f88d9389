"""Tests that docs/plan.md and docs/launch.md show the output of their commands.

Nothing is compiled. Estimates by formula must match to the last digit. The
compiled numbers must be within the page's bounds of the estimates.
"""

import pathlib
import re
import subprocess

import pytest

from kd.config import base
from kd.config import overrides
from kd.configs import gemma3_tpu
from kd.planning import planned_run
from kd.planning import suggestions
from kd.planning import tables
from kd.planning.cost import chips
from kd.planning.hlo import buffers

_PAGES = {
  name: pathlib.Path(f'docs/{name}.md').read_text()
  for name in ('plan', 'launch')
}
_FLAG = '--config.'


def _block(page, start):
  """Returns the first block of a page that starts with `start`."""
  blocks = re.findall(r'^```\n(.*?)^```', _PAGES[page], re.M | re.S)
  return next(block for block in blocks if block.startswith(start))


def _configs(block, folder):
  """Runs a block's commands with a launcher that prints its arguments."""
  launcher = folder / 'bazelw'
  launcher.write_text('#!/bin/sh\nprintf "%s\\t" "$@"\necho\n')
  launcher.chmod(0o755)
  done = subprocess.run(
    ['bash', '-ec', block],
    cwd=folder,
    check=True,
    text=True,
    stdout=subprocess.PIPE,
  )
  configs = []
  for line in done.stdout.splitlines():
    words = line.strip().split('\t')
    assert words[:4] == [
      *('run', '//:plan', '--', '--config=configs/gemma3_tpu.py')
    ]
    changes = [
      overrides.Override(*word.removeprefix(_FLAG).split('=', 1), word)
      for word in words
      if word.startswith(_FLAG)
    ]
    config = overrides.apply(gemma3_tpu.get_config(), changes)
    configs.append(base.checked(config))
  return configs


def _estimates(config):
  """Returns the config's plans by formula."""
  lengths = config.plan.lengths or (config.data.length,)
  return [
    suggestions.estimate(
      planned_run.changed(config, {'data.length': length}),
      chips.parse(config.plan.topology),
    )
    for length in lengths
  ]


def _cells(line):
  return [cell.strip() for cell in line.strip('|').split('|')]


def _bound(slices):
  """Returns the page's bound on the relative error of compiled memory."""
  words = re.escape(f' % {slices}').replace('\\ ', r'\s+')
  return int(re.search(rf'within (\d+){words}', _PAGES['plan'])[1]) / 100


def test_the_table_equals_its_commands_output(tmp_path):
  lines = _PAGES['plan'].splitlines()
  header, rule = tables.markdown([]).splitlines()
  start = lines.index(header)
  assert lines[start + 1] == rule
  stop = lines.index('', start)
  shown = [_cells(line) for line in lines[start + 2 : stop]]
  expected = []
  for config in _configs(_block('plan', 'plan() {'), tmp_path):
    for estimate in _estimates(config):
      row = tables.record(estimate, estimate, [])
      expected.append(_cells(tables.markdown([row]).splitlines()[2]))
  names = _cells(header)
  key = slice(0, names.index('GiB per chip'))
  assert sorted(row[key] for row in shown) == sorted(
    row[key] for row in expected
  )
  expected = {tuple(row[key]): row for row in expected}
  source, first = names.index('source'), names.index('parameters')
  for row in shown:
    formula = expected[tuple(row[key])]
    assert re.fullmatch(r'compiled \d{4}-\d\d-\d\d', row[source])
    for place, name in enumerate(names):
      if name == 'by formula':
        assert row[place] == formula[place], row
    size, of, limit = row[key.stop].split()
    assert [of, limit] == formula[key.stop].split()[1:]
    size = float(size)
    kinds = row[first : first + len(buffers.KINDS)]
    assert size == pytest.approx(sum(map(float, kinds)), abs=0.05)
    assert (row[names.index('fits')] == 'yes') == (size <= float(limit))
    bound = _bound('of the compiled memory in every row')
    if row[2] in ('v5e:2x4', 'v5e:4x4'):
      bound = _bound('on the v5e slices of 8 and 16 chips')
    by_formula = float(row[names.index('by formula')])
    assert by_formula == pytest.approx(size, rel=bound), row
    flops = names.index('TFLOP per chip')
    assert float(row[flops]) == pytest.approx(float(row[flops + 1]), rel=1e-3)


def _values(text):
  """Returns (title, value) of each line of a plan with one column."""
  return [(line[:30].strip(), line[30:].strip()) for line in text.splitlines()]


def test_the_example_equals_its_commands_output(tmp_path):
  (config,) = _configs(_block('plan', './bazelw run'), tmp_path)
  (estimate,) = _estimates(config)
  now = tables.terminal([estimate], [estimate])
  shown = _block('plan', '4b to 1b on ')
  assert shown.splitlines()[:2] == now.splitlines()[:2]
  shown, now = _values(shown)[2:], _values(now)[2:]
  assert [title for title, _ in shown] == [title for title, _ in now]
  bound = _bound('on the v5e slices of 8 and 16 chips')
  for (title, old), (_, new) in zip(shown, now, strict=True):
    if title == 'by formula':
      assert old == new
    if title.startswith('in '):  # A program's memory.
      assert float(new) == pytest.approx(float(old), rel=bound), title


def test_the_advice_equals_the_current_one_scaled(tmp_path):
  configs = _configs(_block('plan', 'plan() {'), tmp_path)
  (config,) = [
    c
    for c in configs
    if (c.student.variant, c.plan.topology) == ('4b', 'v5e:4x4')
  ]
  estimate = _estimates(config)[-1]
  words = re.search(r'compiles to ([\d.]+) of ([\d.]+) GiB', _PAGES['plan'])
  compiled, limit = map(float, words.groups())
  assert limit == float(tables.gib(estimate.chosen.chip.hbm_bytes))
  config = planned_run.changed(config, {'data.length': 32768})
  now = suggestions.lines(config, estimate)
  for old in _block('plan', '--config.').splitlines():
    flags, _, effect = old.partition(': ')
    (same,) = [line for line in now if line.startswith(f'{flags}: ')]
    share = float(same.split(': ')[1].split()[0]) / (estimate.total / 2**30)
    saved = float(effect.split()[0])
    assert saved == pytest.approx(share * compiled, abs=0.02)
    assert effect.endswith('fits') == (compiled - saved <= limit)


def test_the_cost_of_a_launch_equals_the_plans(tmp_path):
  (config,) = _configs(_block('plan', './bazelw run'), tmp_path)
  text = re.search(r'^\./bazelw run //:plan .*$', _PAGES['launch'], re.M)[0]
  assert _configs(text, tmp_path) == [config]
  plan = dict(_values(_block('plan', '4b to 1b on ')))
  values = re.findall(r'^ *(\S.*?) {2,}(\S+)$', _block('plan', '4b to'), re.M)
  table = dict(re.findall(r'^\| (.+?) \| (.+?) \|$', _PAGES['launch'], re.M))
  for title in ('GiB per chip, of 15.75', 'TFLOP per chip and step'):
    assert table[title] == plan[title]
  for kind, place in (('at most', 0), ('expected', 1)):
    for unit in ('hours', 'US$'):
      found = [v for title, v in values if title == f'run, {unit}']
      (cell,) = [
        value
        for title, value in table.items()
        if title.startswith(kind) and title.endswith(unit)
      ]
      assert cell == found[place]
