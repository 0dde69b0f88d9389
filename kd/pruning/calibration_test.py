"""Tests that interrupted calibration returns the same bits."""

import dataclasses

import jax
import numpy as np
import pytest

from kd.core import errors
from kd.partitioning import mesh as mesh_lib
from kd.pruning import calibration
from kd.pruning import pruning_cases


@pytest.fixture
def job(tmp_path):
  mesh = mesh_lib.make({}, jax.devices()[:1])
  return pruning_cases.job(mesh, str(tmp_path))


class _KilledError(Exception):
  pass


def _until(last):
  def read(number, rows):
    if number > last:
      raise _KilledError
    return pruning_cases.read(number, rows)

  return read


def test_an_interrupted_calibration_resumes_bit_identically(job, monkeypatch):
  whole = calibration.run(job)
  assert whole['tokens'] == job.rows * job.length
  monkeypatch.setattr(calibration, '_SAVE_S', 0.0)
  lines = []
  for last in (0, 1):
    stopped = dataclasses.replace(job, read=_until(last), say=lines.append)
    with pytest.raises(_KilledError):
      calibration.run(stopped)
  rest = calibration.run(dataclasses.replace(job, say=lines.append))
  assert lines == [f'resuming after {n * job.batch_size} rows' for n in (1, 2)]
  for name, value in whole.items():
    np.testing.assert_array_equal(rest[name], value)
  # Sums that were saved for other weights are ignored.
  other = dataclasses.replace(
    job, identity='b', read=_until(-1), say=lines.append
  )
  with pytest.raises(_KilledError):
    calibration.run(other)
  assert lines[2:] == [
    'calibrating again: the model, its weights or the rows have changed'
  ]


def test_damaged_sums_are_named(job, tmp_path):
  (tmp_path / calibration.FILE).write_bytes(b'12345678901234567890')
  with pytest.raises(errors.ConfigError, match='calibration.*is damaged'):
    calibration.run(job)


def test_nonfinite_activations_end_the_calibration(job):
  params = jax.tree.map(lambda x: x * np.nan, job.params)
  job = dataclasses.replace(job, params=params, rows=1)
  with pytest.raises(errors.NonFiniteError, match='sums of .*channels'):
    calibration.run(job)
