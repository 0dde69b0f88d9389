"""Plans the memory and time of a run on a TPU slice, without a TPU."""

from collections.abc import Iterator, Sequence

import jax
import ml_collections

from kd.config import base
from kd.core import errors
from kd.core import folders
from kd.planning import compile_client
from kd.planning import libtpu
from kd.planning import planned_run
from kd.planning import programs
from kd.planning import records
from kd.planning import search
from kd.planning import suggestions
from kd.planning import tables
from kd.planning.cost import chips
from kd.planning.cost import costs
from kd.planning.cost import estimates
from kd.run import session


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Compiles the run's programs, then prints and writes what they need.

  Raises:
    ConfigError: the config is invalid for the slice, or libtpu is missing.
    KdError: the compiler failed.
  """
  # No program runs, so the accelerators of this machine are not needed.
  jax.config.update('jax_platforms', 'cpu')
  config = base.checked(config)
  chosen = chips.parse(config.plan.topology)
  records.read(workdir)  # Fails now, not after an hour of compilation.
  lengths = tuple(dict.fromkeys(config.plan.lengths)) or (config.data.length,)
  analytic_estimates = [
    _by_formula(config, chosen, length) for length in lengths
  ]
  _check_context(analytic_estimates[0].run)
  if config.plan.topology != chosen.name:
    count = f'{chosen.count} chip' + ('s' if chosen.count > 1 else '')
    session.say(f'{config.plan.topology} is {chosen.name}: {count}')
  folders.check_writable(workdir, '--workdir')
  if config.plan.compile:
    folders.check_writable(config.plan.folder, 'plan.folder')
    libtpu.packages()
  if config.plan.search:
    for length in lengths:
      of_length = planned_run.changed(config, {'data.length': length})
      _search(of_length, chosen, workdir)
    return
  planned, helps = [], []
  for analytic, estimate in _estimates(config, chosen, analytic_estimates):
    planned.append(estimate)
    helps.append(_help(estimate))
    _add(workdir, tables.record(estimate, analytic, helps[-1]))
  session.say('')
  session.say(tables.terminal(planned, analytic_estimates))
  for estimate, lines in zip(planned, helps, strict=True):
    if estimate.does_not_fit:
      _advise(estimate, lines)
  _say_paths(workdir)


def _by_formula(config, chosen, length):
  """Returns the analytic estimate for rows of a length."""
  try:
    return suggestions.estimate(
      planned_run.changed(config, {'data.length': length}), chosen
    )
  except errors.ConfigError as e:
    if e.path == 'data.length' and config.plan.lengths:
      raise e.at('plan.lengths') from e
    raise


def _check_context(run):
  """Raises if a prompt and its answer exceed the student's context."""
  _, limit = programs.decode_size(run.config)
  prompt, context = run.config.plan.prompt_length, run.student.config.context
  if prompt + limit > context:
    room = context - limit
    raise errors.ConfigError(
      'plan.prompt_length',
      f'found {prompt}: with {limit} new tokens it exceeds the context of '
      f'{context}',
      legal=f'1 to {room}' if room > 0 else 'fewer new tokens',
    )


def _add(workdir, row):
  kept_from = records.add(workdir, row)
  if kept_from:
    session.say(
      f'{row["length"]:,} tokens: {records.RESULTS} keeps the plan compiled on '
      f'{kept_from}'
    )


def _estimates(config, chosen, analytic_estimates):
  """Returns pairs of estimates: the analytic one, and the one to show."""
  if not config.plan.compile:
    return zip(analytic_estimates, analytic_estimates, strict=True)
  return compiled(config, chosen, analytic_estimates)


def _help(estimate):
  """Returns changes that would make a plan fit; [] if it fits."""
  if not estimate.does_not_fit:
    return []
  return suggestions.lines(
    planned_run.changed(estimate.run.config, {}), estimate
  )


def compiled(
  config: ml_collections.ConfigDict,
  chosen: chips.Slice,
  analytic_estimates: Sequence[estimates.Estimate],
) -> Iterator[tuple[estimates.Estimate, estimates.Estimate]]:
  """Compiles the run's programs for the length of each analytic estimate.

  Yields:
    The analytic and the compiler's estimate, once all programs are compiled.

  Raises:
    KdError: see compile_client.run.
  """
  by_length = {
    analytic.run.config.data.length: analytic for analytic in analytic_estimates
  }
  answers = {length: {} for length in by_length}
  for answer in compile_client.run(
    config, chosen, list(by_length), None, session.say
  ):
    analytic, so_far = by_length[answer.length], answers[answer.length]
    run, wanted = analytic.run, programs.all_programs(analytic.run)
    so_far[answer.program] = answer
    if len(so_far) == len(wanted):
      yield (
        analytic,
        estimates.Estimate(
          run,
          chosen,
          estimates.COMPILER,
          analytic.resident,
          [costs.compiled(run, p, so_far[p.name]) for p in wanted],
          date=min(a.facts['date'] for a in so_far.values()),
          versions=answer.facts['versions'],
        ),
      )


def _search(config, chosen, workdir):
  """Compiles the best candidates by analytic estimate, and ranks them."""
  ranked = search.ranked(config, chosen)
  session.say(f'{len(ranked)} candidates fit by formula; trying the best')
  tried = []
  for candidate in ranked[: config.plan.compiled]:
    session.say(candidate.flags)
    changed = planned_run.changed(config, candidate.changes)
    # Estimates of the same mesh share the model of the first candidate.
    whole = suggestions.estimate(changed, chosen)
    for analytic, estimate in _estimates(changed, chosen, [whole]):
      tried.append((candidate, estimate))
      _add(workdir, tables.record(estimate, analytic, _help(estimate)))
  session.say(f'\n{config.data.length:,} tokens per row on {chosen.name}')
  session.say(search.table(tried))
  _say_paths(workdir)


def _advise(estimate, lines):
  length = estimate.run.config.data.length
  session.say(
    f'\n{length:,} tokens per row do not fit; what would help, by formula:'
  )
  for line in lines:
    session.say(f'  {line}')
  for cost in estimate.costs:
    if cost.error:
      session.say(
        f'  the compiler of {cost.name}: {cost.error.splitlines()[0]}'
      )


def _say_paths(workdir):
  session.say('')
  for path in records.paths(workdir):
    session.say(path)
