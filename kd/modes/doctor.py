"""Reports the likely causes of problems in a run, with the evidence."""

from collections.abc import Sequence

import jax
import ml_collections

from kd.core import errors
from kd.core import paths
from kd.diagnosis import diagnose
from kd.run import session

ARGUMENTS = 'WORKDIR...'
CONFIG_OPTIONAL = True


def main(
  config: ml_collections.ConfigDict,
  workdir: str | None,
  arguments: Sequence[str],
) -> None:
  """Reads workdirs and prints causes, the most likely first; writes nothing.

  Raises:
    ConfigError: no workdir is given, or one contains no run.
  """
  del config  # Each workdir contains the config of its run.
  # A run in progress may be using the accelerator.
  jax.config.update('jax_platforms', 'cpu')
  folders = [*([workdir] if workdir else []), *map(paths.expand, arguments)]
  if not folders:
    raise errors.ConfigError('--workdir', 'not given', legal='a folder')
  for folder in folders:
    session.say('\n'.join(diagnose.report(folder)))
