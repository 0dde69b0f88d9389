"""Common steps of all modes: printing, processes, config and exit codes."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import os
import sys

import jax
import ml_collections

from kd.checkpoints import manager
from kd.config import base
from kd.config import places
from kd.core import buckets
from kd.core import config as config_lib
from kd.core import errors
from kd.core import paths
from kd.partitioning import processes
from kd.run import model_checks
from kd.run import resolve_student
from kd.run import resolved
from kd.run import workdirs


def say(line: str) -> None:
  """Prints a line for the user, from one process."""
  if jax.process_index() == 0:
    print(buckets.shown(line), flush=True)


def enter_users_folder() -> None:
  """Changes to the user's folder and adds it to Python's path.

  `bazel run` starts in its runfiles. Unlike `python -m`, neither it nor the
  command `kd` has the user's folder on Python's path.
  """
  folder = os.environ.get('BUILD_WORKING_DIRECTORY')
  if folder:
    os.chdir(folder)
  if not {'', os.getcwd()} & set(sys.path):
    sys.path.insert(0, os.getcwd())


def recorded_config(
  workdir: str | None, or_default: bool, models: Sequence[str] = ()
) -> ml_collections.ConfigDict | None:
  """Returns the config to use without --config: that of the workdir's run.

  Args:
    workdir: value of the flag.
    or_default: whether to return the default config instead of None if there is
      no run.
    models: locations of models; the config of the first run among them is used
      if the workdir has none.
  """
  runs = [place.removeprefix('workdir:') for place in models]
  # A folder for transformers has a config.json too.
  runs = [x for x in runs if os.path.isfile(os.path.join(x, 'run.json'))]
  for folder in (workdir, *runs):
    if folder and not places.place_fault(folder):
      config = workdirs.recorded_config(paths.expand(folder))
      if config is not None:
        return config
  return base.get_config() if or_default else None


def check_workdir(workdir: str | None) -> None:
  """Raises ConfigError unless --workdir can name a folder."""
  if not workdir:
    raise errors.ConfigError('--workdir', 'not given', legal='a folder')
  fault = places.place_fault(workdir)
  if fault:
    raise errors.ConfigError('--workdir', fault, legal=places.WORKDIR)


@contextlib.contextmanager
def exit_codes(workdir: str | None) -> Iterator[None]:
  """Converts errors to exit codes, on all processes.

  Args:
    workdir: value of the flag, for messages about its disk.

  Raises:
    SystemExit: a KdError or OSError was raised; it is printed as one line.
    Exception: any other error, which is a bug; the exit code is 1.
  """
  try:
    yield
    processes.finish()
  except (errors.KdError, OSError) as e:
    error = errors.for_user(e, workdir)
    processes.fail(error, error.exit_code)
    # Notes explain an error, for example by its likely cause.
    notes = [f'kd: {note}' for note in getattr(e, '__notes__', ())]
    for line in (f'kd: error: {error}', *notes):
      print(buckets.shown(line), file=sys.stderr, flush=True)
    sys.exit(error.exit_code)
  except (Exception, KeyboardInterrupt) as e:
    processes.fail(e, code=1)
    raise


def devices(config: ml_collections.ConfigDict) -> list[jax.Device]:
  """Waits for all processes to start and returns all their devices.

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
  also_allowed: tuple[str, ...] = (),
) -> resolved.Run:
  """Resolves a config for a mode that does not train.

  Args:
    config: the config given on the command line.
    workdir: a folder that may contain a run.
    with_teachers: whether the mode needs the teachers.
    warn: function that prints a warning.
    also_allowed: prefixes of more fields that may differ from the run's.

  Raises:
    ConfigError: a field is wrong; names the first one.
  """
  run = resolve_student.resolve_student(
    config, devices(config), workdir, with_teachers
  )
  allowed = (*workdirs.NOT_TRAINED, *also_allowed)
  workdirs.check(run.config, workdir, allowed)
  workdirs.check_tokenizer(run, workdir)
  models = model_checks.models(run)
  if manager.latest_step(workdir) is not None:
    # It was trained with the workdir's template, regardless of its init.
    del models['student']
  for line in model_checks.template_warnings(run, models):
    warn(line)
  return run


def check_one_process(mode: str) -> None:
  """Raises ConfigError if there are several processes.

  Call it after `devices`, where processes connect to each other.
  """
  if jax.process_count() > 1:
    raise errors.ConfigError(
      '--mode',
      f'found {mode!r}, in {jax.process_count()} processes',
      legal='one process, with JAX_PLATFORMS=cpu on a slice of several workers',
    )
