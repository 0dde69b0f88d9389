"""Tests that a cache reports later changes to its teacher's files."""

import json
import os
import pathlib
import shutil

import jax
import pytest
from safetensors import numpy as safetensors

from kd.modes import train as train_mode
from kd.run import resolve
from kd.teachers.cache import teacher_files
from tests import alternating
from tests import cache_runs
from tests import command

_TEACHER = pathlib.Path('data/fixtures/quickstart_teacher')
_WARNING = 'warning: cache.folder'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cache-teacher')
  with command.compiled_once(), alternating.variants():
    yield folder


@pytest.fixture(scope='module')
def teacher(folder):
  """A teacher with a cache; the brackets in its name are not a pattern."""
  teacher = folder / 'teacher [8]'
  shutil.copytree(_TEACHER, teacher)
  _write(folder, teacher)
  return teacher


def _write(folder, teacher, cache='cache'):
  init = {'teacher.init': f'hf:{teacher}'}
  cache_runs.write(folder, folder / cache, **init)


def _warnings(folder, **changes):
  """Prepares to train from the cache; returns the warnings."""
  config = cache_runs.cached(folder, folder / 'cache', **changes)
  said = []
  train_mode.prepare(resolve.resolve(config, jax.devices()), said.append)
  return [line for line in said if line.startswith(_WARNING)]


def _set_norm(teacher, value):
  """Changes a teacher in place without changing file sizes."""
  file = teacher / 'model.safetensors'
  tensors = safetensors.load_file(file)
  tensors['model.norm.weight'][:] = value
  safetensors.save_file(tensors, file, {'format': 'pt'})


def test_a_teacher_with_further_training_in_place(folder, teacher, capsys):
  init = {'teacher.init': f'hf:{teacher}'}
  assert not _warnings(folder, **init)
  # Other modification times with the same bytes, as after a copy.
  for file in teacher.iterdir():
    os.utime(file, (1, 1))
  assert not _warnings(folder, **init)
  original = (teacher / 'model.safetensors').read_bytes()
  _set_norm(teacher, 0.5)
  # The warning does not depend on whether the config names the teacher.
  for named in (init, {'teacher.init': ''}):
    (line,) = _warnings(folder, **named)
    assert f'teacher.init {init["teacher.init"]!r}; these files' in line
    assert 'model.safetensors (SHA-256 ' in line and '--mode=cache' in line
  config = cache_runs.cached(folder, folder / 'cache', steps=2, **init)
  train_mode.main(config, str(folder / 'run'))
  assert line.partition(' teacher.init ')[0] in capsys.readouterr().out
  with cache_runs.refused('teachers', 'digest'):
    _write(folder, teacher)
  assert _warnings(folder, **init)
  # A missing teacher is not compared.
  teacher.rename(folder / 'elsewhere')
  assert not _warnings(folder, **init)
  (folder / 'elsewhere').rename(teacher)
  (teacher / 'model.safetensors').write_bytes(original)
  assert not _warnings(folder, **init)


def test_another_folder_and_the_same_weights_in_other_files(folder, teacher):
  copied = folder / 'copied'
  shutil.copytree(_TEACHER, copied)
  init = {'teacher.init': f'hf:{copied}'}
  assert not _warnings(folder, **init)
  # The same tensors with other metadata.
  file = copied / 'model.safetensors'
  safetensors.save_file(safetensors.load_file(file), file, {'by': 'another'})
  (line,) = _warnings(folder, **init)
  assert f'teacher.init is {init["teacher.init"]!r} now' in line
  # --mode=cache compares the weights themselves.
  _write(folder, copied)
  assert not _warnings(folder, **init)
  _write(folder, teacher)


def test_a_damaged_record_is_refused(folder, teacher):
  record = folder / 'cache' / teacher_files.FILE
  whole = record.read_bytes()
  for text in ('{', '[]', '{"teacher.init": 3}', '{"a": {"init": "hf:x"}}'):
    record.write_text(text)
    with cache_runs.refused('cache.folder', teacher_files.FILE):
      train_mode.main(
        cache_runs.cached(folder, folder / 'cache'), str(folder / 'damaged')
      )
  # Writing the cache again replaces the record.
  _write(folder, teacher)
  assert json.loads(record.read_bytes()).keys() == json.loads(whole).keys()
  assert not _warnings(folder, **{'teacher.init': f'hf:{teacher}'})
