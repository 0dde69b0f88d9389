"""Benchmarks a model against its teacher, a baseline and earlier runs."""

from collections.abc import Sequence

import ml_collections

from kd.benchmarking import benchmark
from kd.benchmarking import record
from kd.benchmarking import verdicts
from kd.core import errors
from kd.run import any_model
from kd.run import session

ARGUMENTS = '[MODEL...]'
CONFIG_OPTIONAL = True
CONFIG_OF_ARGUMENT = True


def main(
  config: ml_collections.ConfigDict,
  workdir: str | None,
  arguments: Sequence[str],
) -> None:
  """Benchmarks the given models, or else the run in the workdir.

  Writes benchmark.md, benchmark.json and pictures to <workdir>/benchmarks/NAME.
  Several models must be runs of one config with different seeds.

  Raises:
    VerdictError: benchmark.fail_on contains the verdict.
  """
  places = list(arguments)
  if not places:
    session.check_workdir(workdir)
    places = [f'workdir:{workdir}']
  if workdir is None:
    kind, where = any_model.locate(places[0])
    if kind != 'workdir':
      raise errors.ConfigError(
        '--workdir',
        f'not given, and {places[0]!r} is not a workdir to write to',
        legal='a folder',
      )
    workdir = where
  fields = benchmark.run(config, workdir, places, session.say)
  verdicts.check(
    fields['verdict'],
    config.benchmark.fail_on,
    str(fields['reference']),
    record.folder(workdir, config.benchmark.name),
  )
