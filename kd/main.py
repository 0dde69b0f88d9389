"""Parses the command line and runs a mode.

See kd/modes for the modes, docs/config.md for the config fields and
docs/survive.md for the exit codes.
"""

from absl import app
from absl import flags
from absl import logging

from kd import modes
from kd.config import command_line
from kd.core import buckets
from kd.core import compile_cache
from kd.core import notices
from kd.core import paths
from kd.run import session
from kd.train import preemption

_CONFIG = command_line.define()
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where the run writes, and resumes from.'
)
_MODE = flags.DEFINE_string('mode', 'train', ', '.join(modes.all_modes()))


def main(argv: list[str]) -> None:
  """Runs the mode; on an error, exits with the exit code of the error.

  Args:
    argv: the program's name, then the arguments that are not flags.
  """
  preemption.STOP_REQUESTS.install()
  compile_cache.enable()
  workdir = _WORKDIR.value or command_line.default_workdir()
  with session.exit_codes(workdir):
    run_mode = modes.load(_MODE.value)
    takes_words = modes.get(_MODE.value, '--mode').arguments
    if workdir or not takes_words:
      session.check_workdir(workdir)
    with buckets.synced():
      arguments = [_CONFIG.value, paths.expand(workdir) if workdir else None]
      run_mode(*arguments, *([argv[1:]] if takes_words else ()))


def _parse_flags(argv):
  def default(words):
    mode = modes.get(_MODE.value, '--mode')
    runs = words if mode.config_of_argument else ()
    return session.recorded_config(_WORKDIR.value, mode.config_optional, runs)

  return command_line.parse_flags(
    argv,
    default=default,
    arguments=lambda: modes.get(_MODE.value, '--mode').arguments,
  )


def run() -> None:
  """Starts the program."""
  session.enter_users_folder()
  # Hides libraries' warnings about intended behavior, but not kd's own lines.
  logging.set_verbosity(logging.ERROR)
  notices.show(session.say)
  app.run(main, flags_parser=_parse_flags)


if __name__ == '__main__':
  run()
