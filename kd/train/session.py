"""Starts a mode: joins the processes and resolves the config."""

from collections.abc import Callable
import json

import jax
import ml_collections

from kd.checkpoints import manager
from kd.config import base
from kd.core import config as config_lib
from kd.core import errors
from kd.partitioning import processes
from kd.train import describe
from kd.train import resolve_student
from kd.train import resolved
from kd.train import workdirs


def say(line: str) -> None:
  """Prints a line for the user, from one process."""
  if jax.process_index() == 0:
    print(line, flush=True)


def devices(config: ml_collections.ConfigDict) -> list[jax.Device]:
  """Returns the devices of all processes, once all have started.

  Raises:
    ConfigError: two processes have different configs.
  """
  config = base.checked(config)
  processes.start(config.processes)
  found = json.loads(config_lib.to_json(config))
  first = processes.from_first(lambda: found)
  for path, there, here in config_lib.differences(first, found):
    if not path.startswith('processes.'):
      raise errors.ConfigError(
        path,
        f'process {jax.process_index()} has {here!r}, process 0 has {there!r}',
        legal='one config for all processes',
      )
  return jax.devices()


def open_trained(
  config: ml_collections.ConfigDict,
  workdir: str,
  with_teachers: bool = False,
  warn: Callable[[str], None] = say,
) -> resolved.Run:
  """Resolves a config for a mode that trains nothing.

  Args:
    config: as the flag gave it.
    workdir: may hold a run.
    with_teachers: whether the mode needs the teachers.
    warn: prints a warning.

  Raises:
    ConfigError: names the first field that is wrong.
  """
  run = resolve_student.resolve_student(
    config, devices(config), workdir, with_teachers
  )
  workdirs.check(run.config, workdir, workdirs.NOT_TRAINED)
  workdirs.check_tokenizer(run, workdir)
  models = describe.models(run)
  if manager.latest_step(workdir) is not None:
    # Trained with the workdir's own template, whatever it began from.
    del models['student']
  for line in describe.template_warnings(run, models):
    warn(line)
  return run


def check_one_process(mode: str) -> None:
  """Raises ConfigError if there are several processes.

  Call it after `devices`: that is when processes find each other.
  """
  if jax.process_count() > 1:
    raise errors.ConfigError(
      '--mode',
      f'found {mode!r}, in {jax.process_count()} processes',
      legal='one process, with JAX_PLATFORMS=cpu on a slice of several workers',
    )
