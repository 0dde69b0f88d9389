"""Helpers of all modes: printing, joining processes, config, exit codes."""

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
  """Changes to the user's folder, where her modules are found, too.

  `bazel run` starts in its runfiles, and neither it nor the command `kd` has
  the folder on Python's path, as `python -m` does.
  """
  folder = os.environ.get('BUILD_WORKING_DIRECTORY')
  if folder:
    os.chdir(folder)
  if not {'', os.getcwd()} & set(sys.path):
    sys.path.insert(0, os.getcwd())


def recorded_config(
  workdir: str | None, or_default: bool, models: Sequence[str] = ()
) -> ml_collections.ConfigDict | None:
  """Returns the config where --config names none: that of the workdir's run.

  Args:
    workdir: the flag.
    or_default: whether it is the default config where there is no run; None
      otherwise.
    models: places of models; the config of the first run among them is next.
  """
  runs = [place.removeprefix('workdir:') for place in models]
  # A folder for transformers has a config.json, too.
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
    workdir: the flag, for messages about its disk.

  Raises:
    SystemExit: for a KdError or OSError, printed as one line.
    Exception: any other; it is a fault of the program, exit code 1.
  """
  try:
    yield
    processes.finish()
  except (errors.KdError, OSError) as e:
    error = errors.for_user(e, workdir)
    processes.fail(error, error.exit_code)
    # Notes say more about an error, such as its likely cause.
    notes = [f'kd: {note}' for note in getattr(e, '__notes__', ())]
    for line in (f'kd: error: {error}', *notes):
      print(buckets.shown(line), file=sys.stderr, flush=True)
    sys.exit(error.exit_code)
  except (Exception, KeyboardInterrupt) as e:
    processes.fail(e, code=1)
    raise


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
  also_allowed: tuple[str, ...] = (),
) -> resolved.Run:
  """Resolves a config for a mode that trains nothing.

  Args:
    config: as given on the command line.
    workdir: may hold a run.
    with_teachers: whether the mode needs the teachers.
    warn: prints a warning.
    also_allowed: prefixes of more fields that may differ from the run's.

  Raises:
    ConfigError: names the first field that is wrong.
  """
  run = resolve_student.resolve_student(
    config, devices(config), workdir, with_teachers
  )
  allowed = (*workdirs.NOT_TRAINED, *also_allowed)
  workdirs.check(run.config, workdir, allowed)
  workdirs.check_tokenizer(run, workdir)
  models = model_checks.models(run)
  if manager.latest_step(workdir) is not None:
    # Trained with the workdir's own template, whatever it began from.
    del models['student']
  for line in model_checks.template_warnings(run, models):
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
