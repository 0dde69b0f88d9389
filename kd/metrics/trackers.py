"""Sends metrics to Weights & Biases and MLflow, if they are installed.

Their own environment variables select the server, and the project or
experiment: WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME. Importing this module imports TensorFlow where it is
installed.
"""

from collections.abc import Callable, Mapping, Sequence
import importlib.util
import logging
import os
import sys
import time
from typing import Any

from kd.core import atomic_files
from kd.core import config as config_lib
from kd.core import errors
from kd.core import identity
from kd.core import json_files
from kd.metrics import scalar_writer

FILE = 'trackers.json'  # Each tracker's id of the workdir's run.
_PROJECT = 'kd'
_PACKAGES = {'wandb': 'wandb', 'mlflow': 'mlflow'}
# Training waits for requests, which MLflow retries for minutes by default.
_PATIENCE = {
  'MLFLOW_HTTP_REQUEST_MAX_RETRIES': '1',
  'MLFLOW_HTTP_REQUEST_TIMEOUT': '10',
}
_LONGEST = 500  # characters of a parameter in MLflow
_MOST_PARAMETERS = 100  # in one request to MLflow


def check(names: Sequence[str]) -> None:
  """Raises ConfigError unless the packages of these trackers are installed."""
  for name in names:
    if importlib.util.find_spec(name) is None:
      raise errors.ConfigError(
        'log.trackers',
        f'found {name!r}, which is not installed',
        legal=f'pip install {_PACKAGES[name]}, or no {name!r}',
      )


def _recorded(folder: str) -> dict[str, str]:
  """Returns the run ids of the workdir, by tracker."""
  path = os.path.join(folder, FILE)
  return json_files.read(path) if os.path.exists(path) else {}


def _record(folder, name, run_id):
  path = os.path.join(folder, FILE)
  atomic_files.write_json(path, {**_recorded(folder), name: run_id})


class WandbWriter(scalar_writer.ScalarWriter):
  """Writes metrics to a Weights & Biases run.

  `step` is logged as a metric and is the axis of all others, so that a resumed
  run can write repeated steps again.
  """

  def __init__(self, folder: str, label: str, config: Mapping[str, Any]):
    """Starts the run, or continues that of the workdir.

    Args:
      folder: the workdir.
      label: of the student.
      config: of the run.
    """
    import wandb

    run_id = _recorded(folder).get('wandb')
    if run_id is None:
      run_id = identity.digest([os.path.abspath(folder), time.time_ns()])
      _record(folder, 'wandb', run_id)
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', _PROJECT),
      dir=folder,
      id=run_id,
      name=_name(folder, label),
      resume='allow',
      config=config_lib.flatten(config),
      settings=wandb.Settings(silent=True),
    )
    self._run.define_metric('*', step_metric='step')

  def write_scalars(self, step, scalars):
    values = {name: float(x) for name, x in scalars.items()}
    self._run.log({**values, 'step': int(step)})

  def close(self):
    self._run.finish(exit_code=int(_is_failing()))


class MlflowWriter(scalar_writer.ScalarWriter):
  """Writes metrics to an MLflow run; a failing server does not end training."""

  def __init__(self, folder: str, label: str, config: Mapping[str, Any]):
    """Starts the run, or continues that of the workdir.

    Args:
      folder: the workdir.
      label: of the student.
      config: of the run.
    """
    for variable, value in _PATIENCE.items():
      os.environ.setdefault(variable, value)
    import mlflow

    self._mlflow, self._client = mlflow, mlflow.MlflowClient()
    self._warned = False
    self._run_id = _recorded(folder).get('mlflow')
    if self._run_id is None:
      try:
        self._run_id = self._create(_name(folder, label), config)
      except mlflow.MlflowException as e:
        raise errors.ConfigError(
          'log.trackers',
          f"found 'mlflow', and {mlflow.get_tracking_uri()} fails: {e}",
          legal='a tracking server in MLFLOW_TRACKING_URI that answers',
        ) from e
      _record(folder, 'mlflow', self._run_id)

  def _create(self, name, config):
    experiment = os.environ.get('MLFLOW_EXPERIMENT_NAME', _PROJECT)
    found = self._client.get_experiment_by_name(experiment)
    experiment_id = (
      found.experiment_id
      if found
      else self._client.create_experiment(experiment)
    )
    run = self._client.create_run(experiment_id, run_name=name)
    parameters = [
      self._mlflow.entities.Param(path, str(value)[:_LONGEST])
      for path, value in config_lib.flatten(config).items()
    ]
    for first in range(0, len(parameters), _MOST_PARAMETERS):
      self._client.log_batch(
        run.info.run_id, params=parameters[first : first + _MOST_PARAMETERS]
      )
    return run.info.run_id

  def write_scalars(self, step, scalars):
    now = time.time_ns() // 1_000_000
    metrics = [
      self._mlflow.entities.Metric(name, float(value), now, int(step))
      for name, value in scalars.items()
    ]
    self._try(lambda: self._client.log_batch(self._run_id, metrics=metrics))

  def close(self):
    status = 'FAILED' if _is_failing() else 'FINISHED'
    self._try(lambda: self._client.set_terminated(self._run_id, status))

  def _try(self, call):
    """Calls, and warns only once if MLflow fails; metrics.jsonl is complete."""
    try:
      call()
    except self._mlflow.MlflowException as e:
      if not self._warned:
        message = 'warning: MLflow did not accept metrics: %s'
        logging.getLogger(__name__).info(message, e)
      self._warned = True


def _is_failing():
  """Returns whether an exception is being handled while writers are closed."""
  return sys.exc_info()[0] is not None


def _name(folder, label):
  return f'{os.path.basename(os.path.abspath(folder))} ({label})'


Tracker = Callable[[str, str, Mapping[str, Any]], scalar_writer.ScalarWriter]
TRACKERS: Mapping[str, Tracker] = {'wandb': WandbWriter, 'mlflow': MlflowWriter}
