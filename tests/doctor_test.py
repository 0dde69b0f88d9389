"""Tests that exactly the planted faults are diagnosed, and none if healthy.

Faults are planted in copies of one real run's files. Faults of training are
produced by real runs.
"""

import json
import os
import shutil

import numpy as np
import pytest

from kd.config import base
from kd.configs import quickstart
from kd.core import errors
from kd.core import plugins
from kd.diagnosis import diagnose
from kd.diagnosis import findings
from kd.diagnosis import memory
from kd.diagnosis import run_record
from kd.diagnosis import stability
from kd.diagnosis import training
from kd.input_pipeline import rows as rows_lib
from kd.models.gemma3 import config as gemma3_config
from kd.modes import doctor
from kd.modes import train as train_mode
from kd.run import load_params
from tests import alternating
from tests import command
from tests import planted_faults


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('doctor')


@pytest.fixture(scope='module')
def start(folder):
  """Starts a small run; returns its workdir."""
  with pytest.MonkeyPatch.context() as patched:
    # To trace and compile fewer layers.
    patched.setattr(gemma3_config, 'PUBLISHED_PERIOD', 2)
    _, _, teacher = alternating.teacher(str(folder)).partition('=')

    def run(name, rate=5e-3, baseline=False, sets=True):
      c, workdir = quickstart.get_config(), str(folder / name)
      c.update(steps=planted_faults.STEPS)
      c.teacher.init = teacher
      c.data.update(mixture='arithmetic_few', batch_size=4, length=64)
      c.data.update(examples=64, folder=str(folder / 'rows'))
      c.optimizer.lr = base.schedule('constant', peak=rate, warmup_steps=2)
      c.evaluation.update(every=4, batch_size=8, baseline=baseline)
      c.evaluation.sets.held_out.update(examples=16, answers=0)
      if not sets:
        c.evaluation.every = 0
        c.evaluation.sets = {}
      if baseline:
        c.profile.update(steps=2, first_step=5)
      c.checkpoint.update(every=50, keep=1)
      c.log.update(every=1, tensorboard=False)
      with command.compiled_once():
        train_mode.main(c, workdir)
      return workdir

    yield run


@pytest.fixture(scope='module')
def healthy(start):
  """The folder of a run, with times as on an idle machine."""
  workdir = start('healthy', baseline=True)
  planted_faults.edit_lines(workdir, planted_faults.set_times)
  planted_faults.edit(
    workdir, 'run.json', lambda run: run.update(host_bytes=64 * 2**30)
  )
  return workdir


def _causes(workdir):
  found = findings.diagnose(run_record.read(workdir))
  assert all(0 < f.likelihood <= 1 and f.evidence and f.remedy for f in found)
  return {f.cause: f for f in found}


def test_a_healthy_run_has_no_cause(healthy, capsys):
  assert _causes(healthy) == {}
  doctor.main(base.get_config(), None, [healthy])
  out = capsys.readouterr().out
  assert out.startswith(
    f'{healthy}: step 12 of 12, finished: after step 12\nno cause'
  )
  with open(os.path.join(healthy, 'report.md'), encoding='utf-8') as f:
    assert 'profile/operations.md.' in f.read()
  with open(f'{healthy}/profile/operations.json', encoding='utf-8') as f:
    traced = json.load(f)
  updates = [x for x in traced['operations'] if x['program'] == 'jit_update']
  assert traced['first_step'] == 5
  assert updates and all(x['calls'] % 2 == 0 for x in updates)
  task = run_record.read(healthy).run['rows']['train'][0]
  assert task['begins'] == task['with_bos'] > 0


@pytest.fixture
def planted(healthy, tmp_path):
  """A copy of the run's files for planting a fault."""
  workdir = str(tmp_path / 'run')
  leave_out = shutil.ignore_patterns('checkpoints', 'events.*', '*.png')
  shutil.copytree(healthy, workdir, ignore=leave_out)
  return workdir


@pytest.mark.parametrize('name', planted_faults.FAULTS)
def test_only_the_planted_fault_is_named(name, planted):
  plant, cause = planted_faults.FAULTS[name]
  plant(planted)
  found = _causes(planted)
  assert list(found) == [cause], found
  if cause in (memory.OUT, memory.NEARLY):
    assert 'GiB, most of it for temporaries 0.02' in found[cause].evidence
    assert '--config.' in found[cause].remedy


def test_every_cause_has_a_fault_and_is_documented():
  causes = {*findings.DIAGNOSES.names()}
  assert {cause for _, cause in planted_faults.FAULTS.values()} == causes
  with open('docs/doctor.md', encoding='utf-8') as f:
    table = f.read().split('| --- | --- |')[1].split('\n\n')[0]
  assert set(table.strip().splitlines()) == {
    f'| {cause} | {findings.about(cause)} |' for cause in causes
  }


def test_files_may_be_missing_or_torn(planted):
  path = os.path.join(planted, 'metrics.jsonl')
  with open(path, 'ab') as f:
    f.write(b'{"step": 13, "pha')
  assert _causes(planted) == {}
  for name in ('evaluations', 'baseline', 'metrics.jsonl', 'run.json'):
    path = os.path.join(planted, name)
    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    assert _causes(planted) == {}
  os.unlink(os.path.join(planted, 'config.json'))
  with pytest.raises(errors.ConfigError, match='contains no config.json'):
    diagnose.report(planted)


_PLUGIN = """
from kd.diagnosis import findings


@findings.DIAGNOSES.register('a full moon')
def full_moon(record):
  steps = record.train[-1]['step']
  return findings.Finding(f'{steps} steps', 'wait two weeks', 0.1)
"""


def test_a_plugin_adds_a_diagnosis(planted, tmp_path, monkeypatch):
  (tmp_path / 'my_diagnosis.py').write_text(_PLUGIN)
  monkeypatch.syspath_prepend(str(tmp_path))
  # Otherwise processes that prepare rows for later tests would load it, too.
  monkeypatch.setattr(plugins, '_loaded', [])
  planted_faults.edit(
    planted, 'config.json', lambda c: c.update(plugins=['my_diagnosis'])
  )
  registered = dict(findings.DIAGNOSES._builders)
  monkeypatch.setattr(findings.DIAGNOSES, '_builders', registered)
  assert diagnose.report(planted)[1:] == [
    '1. a full moon: 12 steps',
    '   wait two weeks',
  ]


def test_a_learning_rate_100_times_too_high_is_named(start):
  workdir = start('rate', rate=0.5, sets=False)
  assert list(_causes(workdir)) == [training.HIGH]
  # Two operations per weight of the teacher, six per weight of the student, and
  # attention.
  record = run_record.read(workdir)
  flops = 4 * 64 * (2 * 1_167_872 + 6 * record.run['parameters']['total'])
  # Logits are only computed at targets.
  task, models = record.run['rows']['train'][0], record.estimate.run
  masked = 4 * 64 * (1 - task['target_weight'] / task['rows'] / 64)
  student, teacher = models.student.config, models.teacher.config
  widths = 2 * teacher.embed_dim + 6 * student.embed_dim
  flops -= masked * student.vocab_size * widths
  line = record.train[-1]
  done = line['perf/tflops_per_s'] * 1e12 * line['perf/step_time_s']
  assert 1.0 < done / flops < 1.25 and 'perf/mfu' not in line


def test_nonfinite_rows_are_named_after_the_error(start, folder, monkeypatch):
  read = rows_lib.Rows.__call__

  def poisoned(self, step, numbers):
    batch = read(self, step, numbers)
    if step == 3:
      batch.weights[1] *= np.nan
    return batch

  monkeypatch.setattr(rows_lib.Rows, '__call__', poisoned)
  with pytest.raises(errors.NonFiniteError, match='step 4') as e:
    start('rows_nan', sets=False)
  found = _causes(str(folder / 'rows_nan'))
  assert list(found) == [stability.NOT_FINITE]
  evidence = found[stability.NOT_FINITE].evidence
  assert evidence.startswith('not finite: the weights of 1 rows of step 4')
  assert e.value.__notes__ == [
    f'likely cause: {stability.NOT_FINITE}: look at the weights that the data '
    'gives to messages'
  ]


def test_nonfinite_parameters_are_named_by_layer(start, folder, monkeypatch):
  load = load_params.load

  def poisoned(model, seed, path, *args):
    params = load(model, seed, path, *args)
    if path != 'student.init':
      return params
    stacked = params['pattern']['layer_1']['mlp']
    gate = stacked['gate']
    # In the second period of two layers.
    stacked['gate'] = gate.at[1].multiply(np.nan)
    return params

  monkeypatch.setattr(load_params, 'load', poisoned)
  with pytest.raises(errors.NonFiniteError):
    start('params_nan', sets=False)
  found = _causes(str(folder / 'params_nan'))
  assert list(found) == [stability.NOT_FINITE]
  evidence = found[stability.NOT_FINITE].evidence
  assert evidence.startswith('not finite: the parameters layers.3.mlp.gate (')
