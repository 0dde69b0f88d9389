"""Tests kd.distill, kd.load and kd.plan, and the notebook."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import kd
from kd.benchmarking import models
from kd.benchmarking import verdicts
from kd.config import overrides
from kd.core import errors
from kd.modes import benchmark as benchmark_mode
from kd.modes import export
from kd.planning.cost import estimates
from kd.run import workdirs
from tests import command
from tests import page_commands

_ROOT = os.getcwd()
_PROMPTS = ['Q: 1+2=?\nA:\n', 'Q: 30-4=?\nA:\n']


def _small(config):
  """Returns a config with the sizes of the runs of other tests."""
  flags = [f.removeprefix('--config.') for f in command.QUICK[1:]]
  changes = [
    overrides.Override(*flag.split('=', 1), argument=flag)
    for flag in (*flags, 'evaluation.baseline=False')
  ]
  return overrides.apply(config, changes)


@pytest.fixture(scope='module')
def distilled(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('library') / 'run'
  config = _small(kd.get_config('quickstart'))
  with config.unlocked():
    config.export.dtype = 'float32'
  with command.compiled_once():
    result = kd.distill(config, workdir)
    export.main(config, result.workdir)
    yield result


def test_metrics_and_report_equal_the_workdirs(distilled):
  last = [
    x for x in command.metrics(distilled.workdir) if x['phase'] != 'train'
  ]
  assert distilled.metrics['eval/held_out/nll'] == last[-1]['eval/held_out/nll']
  assert 'NLL' in pathlib.Path(distilled.report).read_text()


def test_scores_agree_with_the_log_probabilities_of_answers(distilled):
  teacher = kd.load('data/fixtures/quickstart_teacher')
  answers = teacher.generate(
    [_PROMPTS[0], [{'role': 'user', 'content': _PROMPTS[1]}]],
    max_new_tokens=6,
    temperature=0.5,
    seed=3,
  )
  for prompt, (sample,) in zip(_PROMPTS, answers, strict=True):
    before, after = teacher.score([prompt, prompt + sample.text])
    assert after.tokens - before.tokens == len(sample.ids) == 6
    expected = -sum(sample.logprobs)
    assert after.nll - before.nll == pytest.approx(expected, abs=2e-3)
  again = teacher.generate(
    [_PROMPTS[0]], max_new_tokens=6, temperature=0.5, seed=3
  )
  assert again[0][0].ids == answers[0][0].ids
  assert (
    len(teacher.generate(_PROMPTS[:1], samples=2, max_new_tokens=2)[0]) == 2
  )


def test_an_export_is_the_same_model(distilled):
  exported = kd.load(os.path.join(distilled.workdir, 'export', 'hf'))
  expected = distilled.student.score(_PROMPTS)
  for one, other in zip(exported.score(_PROMPTS), expected, strict=True):
    assert one.nll == pytest.approx(other.nll, rel=1e-6)
  # The workdir's config has float32 and 'plain'.
  rounded = kd.load(distilled.workdir, dtype='bfloat16', template='gemma')
  for one, other in zip(rounded.score(_PROMPTS), expected, strict=True):
    assert one.nll != other.nll
    assert one.nll == pytest.approx(other.nll, rel=0.02)


def test_errors_are_raised_as_exceptions(distilled, tmp_path):
  student = distilled.student
  cases = {
    'nearest config': (lambda: kd.get_config('quikstart'), "mean 'quickstart'"),
    'field': (lambda: kd.get_config('quickstart', step=1), "mean 'steps'"),
    'no model': (lambda: kd.load(tmp_path), 'contains no model'),
    'setting': (
      lambda: student.generate(['x'], temprature=1),
      "mean 'temperature'",
    ),
    'value': (lambda: student.generate(['x'], top_p=2.0), 'top_p: found 2.0'),
    'role': (
      lambda: student.generate([[{'role': 'usr', 'content': 'x'}]]),
      'prompts[0]: messages[0].role',
    ),
    'empty text': (lambda: student.score(['']), 'texts[0]'),
    'one text': (lambda: student.score('text'), 'found a text'),
  }
  for name, (call, expected) in cases.items():
    with pytest.raises(errors.ConfigError) as e:
      call()
    assert expected in str(e.value), name


def test_a_benchmark_against_an_earlier_one(distilled, tmp_path):
  earlier = tmp_path / 'benchmarks' / 'teacher'
  config = workdirs.recorded_config(distilled.workdir)
  cost = dict(repeats=2, batch_sizes=(2,), prompt_lengths=(4,), new_tokens=3)
  first = kd.benchmark(
    'data/fixtures/quickstart_teacher',
    tmp_path,
    config,
    name=earlier.name,
    cost=cost,
  )
  assert first['verdict'] is None
  of_itself = first['sets']['held_out']['measures']['model']
  assert of_itself['kl']['value'][0] == pytest.approx(0, abs=1e-6)
  assert of_itself['acceptance']['value'][0] == pytest.approx(1, abs=1e-6)
  (timing,) = first['cost']['model']['timings']
  assert timing['measured'] == {'first_token': 2, 'per_token': 4, 'whole': 2}
  assert first['cost']['model']['disk_bytes'] == os.path.getsize(
    'data/fixtures/quickstart_teacher/model.safetensors'
  )

  # The third command of docs/benchmark.md with other models.
  given, flags = page_commands.parse(
    page_commands.commands('docs/benchmark.md')[2]
  )
  assert flags['words'].endswith('/export/hf') and given.benchmark.earlier
  with config.unlocked():
    config.benchmark.update(
      fail_on=given.benchmark.fail_on,
      earlier=(str(earlier),),
      metric='nll',
      pass_at=(1, 2),
      samples=2,
      slices=('id',),
    )
    config.benchmark.cost.measure = False
  with pytest.raises(verdicts.VerdictError, match='earlier: teacher'):
    benchmark_mode.main(config, None, [distilled.workdir])
  folder = os.path.join(distilled.workdir, 'benchmarks', 'latest')
  second = json.loads(pathlib.Path(folder, 'benchmark.json').read_text())
  assert second['verdict'] == 'worse'
  found = second['sets']['held_out']['measures']
  # Equal to the run's last evaluation and to the earlier benchmark.
  for name in ('nll', 'kl', 'agreement', 'accuracy', 'exact_match'):
    expected = distilled.metrics[f'eval/held_out/{name}']
    assert found['model'][name]['value'][0] == pytest.approx(expected, rel=1e-5)
  assert found['teacher']['nll'] == found['earlier: teacher']['nll']
  assert found['model']['pass@2']['value'] == [0, 0, 0]  # Cut at 8 tokens.
  slices = second['sets']['held_out']['retention']
  assert [x['rows'] for x in slices] == [8, *[1] * 8]
  # A run that was trained from a cache on other positions.
  with config.unlocked():
    config.teacher.source = 'cached'
    config.objective.positions.update(rule='random', fraction=0.5)
  opened = models.open_model(config, distilled.workdir)
  assert opened.run.teachers
  page = pathlib.Path(folder, 'benchmark.md').read_text()
  pictures = re.findall(r'!\[\w+\]\((.*)\)', page)
  # The earlier benchmark measured the cost.
  assert pictures == ['comparison.png', 'reliability.png', 'cost.png']
  assert all(os.path.getsize(os.path.join(folder, x)) for x in pictures)


def test_a_plan(tmp_path):
  config = kd.get_config('gemma3_tpu')
  config.teacher.variant, config.student.variant = '4b', '1b'
  config.plan.update(topology='v5e:4x4', compile=False)
  (row,) = kd.plan(config)
  assert (row['topology'], row['source']) == ('v5e:4x4', estimates.FORMULA)
  assert not os.listdir(tmp_path)


def test_import_is_light():
  code = "import kd, sys; print('jax' in sys.modules, 'load' in dir(kd))"
  out = subprocess.run([sys.executable, '-c', code], capture_output=True)
  assert out.stdout == b'False True\n'
  with pytest.raises(AttributeError, match='laod'):
    _ = kd.laod


def _cells(path):
  cells = json.loads(pathlib.Path(path).read_text())['cells']
  return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def test_the_notebook_and_the_page_run(
  distilled, tmp_path, monkeypatch, capsys
):
  """Runs the notebook's code with fewer steps than its saved output."""
  given = kd.get_config
  small = lambda *arguments, **changes: _small(given(*arguments, **changes))
  monkeypatch.setattr(kd, 'get_config', small, raising=False)
  monkeypatch.chdir(tmp_path)
  os.symlink(distilled.workdir, 'run')
  space = {}
  for cell in _cells(f'{_ROOT}/examples/quickstart.ipynb'):
    exec(cell, space)
  page = pathlib.Path(f'{_ROOT}/docs/library.md').read_text()
  for block in re.findall(r'```python\n(.*?)```', page, re.S):
    exec(block.replace('config.optimizer.lr.peak = 3e-3\n', ''), space)
  assert 'student' in capsys.readouterr().out
