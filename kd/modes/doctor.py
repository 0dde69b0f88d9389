"""Names the likely causes of what went wrong in a run, with what shows them."""

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
    ConfigError: no workdir is given, or one holds no run.
  """
  del config  # That of each run is in its workdir.
  # The accelerator is the run's, which may be in progress.
  jax.config.update('jax_platforms', 'cpu')
  folders = [*([workdir] if workdir else []), *map(paths.expand, arguments)]
  if not folders:
    raise errors.ConfigError('--workdir', 'not given', legal='a folder')
  for folder in folders:
    session.say('\n'.join(diagnose.report(folder)))
