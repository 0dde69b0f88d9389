"""Tests models with finite weights and nonfinite logits, end to end."""

import shutil

import pytest
from safetensors import numpy as safetensors_numpy

from tests import command
from tests import fault_chains

_FIXTURE = 'data/fixtures/quickstart_teacher'
_MIXTURE = """
from kd.configs import quickstart
from kd.config import base


def get_config():
  c = quickstart.get_config()
  second = base.other_teacher(
    init=c.teacher.init, dtype='float32', param_dtype='float32'
  )
  c.teacher.others = dict(second=second)
  return c
"""


@pytest.fixture(scope='module')
def bad(tmp_path_factory):
  """A teacher with finite weights in bfloat16 and no finite logit."""
  folder = tmp_path_factory.mktemp('teacher') / 'bad'
  shutil.copytree(_FIXTURE, folder)
  tensors = safetensors_numpy.load_file(folder / 'model.safetensors')
  tensors['model.norm.weight'] = tensors['model.norm.weight'] * 0 + 3e38
  safetensors_numpy.save_file(tensors, folder / 'model.safetensors')
  return folder


@pytest.fixture(scope='module')
def driver(tmp_path_factory, bad):
  """The driver after all chains have ended with exit code 3."""
  folder = tmp_path_factory.mktemp('nonfinite')
  (folder / 'mixture.py').write_text(_MIXTURE)
  driver = fault_chains.Driver(folder)
  driver.add(
    'mixture',
    {},
    f'--config.teacher.others.second.init=hf:{bad}',
    '--config.evaluation.sets={}',
    '--config.evaluation.every=0',
    config=f'--config={folder}/mixture.py',
    rows='all',
  )
  driver.add(
    'rate',
    {},
    '--config.optimizer.lr.peak=1e30',
    '--config.checkpoint.every=1',
    '--config.evaluation.every=2',
    '--config.evaluation.sets.held_out.answers=0',
    rows='all',
  )
  codes = driver.go()
  assert codes == dict.fromkeys(codes, [3]), codes
  return driver


def test_a_nonfinite_teacher_of_a_mixture_is_named_first(driver, bad):
  assert driver.error('mixture') == (
    'kd: error: step 1: the targets of the teacher (teacher.others.second.init '
    f'hf:{bad}) are not finite; the student was not changed by it: repair the '
    'teacher'
  )
  assert command.metrics(driver.workdir('mixture')) == []


def test_errors_of_diverged_runs_name_step_and_checkpoint(driver):
  assert driver.error('rate') == (
    'kd: error: evaluation after step 2: the parameters of the student have no '
    'finite norm: nothing was recorded; checkpoint 1 was saved before and gave '
    'a finite step; the same command ends at this step again; train in a new '
    'workdir with a lower optimizer.lr.peak'
  )
