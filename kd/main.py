"""kd: distils large Gemma 3 models into small ones.

python -m kd.main --config=configs/quickstart.py --workdir=/tmp/kd-quickstart
"""

import os
import sys

from kd.core import host_memory

if __name__ == '__main__':
  # The process starts anew: before what takes a second to import.
  host_memory.use_large_pages()

from absl import app
from absl import flags
from absl import logging
import ml_collections

from kd import modes
from kd.config import base
from kd.config import command_line
from kd.config import places
from kd.core import compile_cache
from kd.core import errors
from kd.core import notices
from kd.core import paths
from kd.partitioning import processes
from kd.train import preemption
from kd.train import session
from kd.train import workdirs

_CONFIG = command_line.define()
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where the run writes, and resumes from.'
)
_HELPS = modes.helps()
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  list(_HELPS),
  ' '.join(f'{name}: {text}' for name, text in _HELPS.items()),
)


def main(argv: list[str]) -> None:
  """Runs the mode."""
  del argv
  preemption.NOTICE.install()
  compile_cache.enable()
  try:
    _run_mode()
  except (Exception, KeyboardInterrupt) as e:
    processes.fail(e, code=1)
    raise


def _run_mode():
  try:
    if not _WORKDIR.value:
      raise errors.ConfigError('--workdir', 'not given', legal='a folder')
    fault = places.path_fault(_WORKDIR.value)
    if fault:
      raise errors.ConfigError(
        '--workdir', fault, legal='a folder; a bucket can be mounted as one'
      )
    mode = modes.load(_MODE.value)
    mode(_CONFIG.value, paths.expand(_WORKDIR.value))
    processes.finish()
  except (errors.KdError, OSError) as e:
    error = errors.for_user(e, _WORKDIR.value)
    processes.fail(error, error.exit_code)
    print(f'kd: error: {error}', file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


def _default_config() -> ml_collections.ConfigDict | None:
  """Returns the config where --config names none: that of the workdir's run.

  A chat reads little of a config, so that it does without a run as well.
  """
  if _WORKDIR.value:
    config = workdirs.recorded_config(paths.expand(_WORKDIR.value))
    if config is not None:
      return config
  return base.get_config() if _MODE.value == 'chat' else None


def _from_users_folder() -> None:
  """`bazel run` starts in the runfiles: relative paths mean the user's."""
  folder = os.environ.get('BUILD_WORKING_DIRECTORY')
  if folder:
    os.chdir(folder)


def _parse_flags(argv: list[str]) -> list[str]:
  return command_line.parse_flags(argv, default=_default_config)


def run() -> None:
  """Starts the program."""
  _from_users_folder()
  # Libraries warn of what is intended; the project's own lines are shown.
  logging.set_verbosity(logging.ERROR)
  notices.show(session.say)
  app.run(main, flags_parser=_parse_flags)


if __name__ == '__main__':
  run()
