"""Evaluates the workdir's student, or the one that student.init names."""

from typing import Any

import jax
import ml_collections

from kd.core import run_info
from kd.evaluation import intervals
from kd.evaluation import measures
from kd.evaluation import results
from kd.evaluation import table
from kd.run import outputs
from kd.run import session
from kd.teachers import param_digest
from kd.train import evaluate as evaluate_lib
from kd.train import evaluation_records
from kd.train import report
from kd.train.feeds import live


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Evaluates a student on every held-out set.

  Writes evaluations/eval_last.json (or eval_best, eval_init, by the evaluated
  parameters) and the answers into the file next to it; prints a table.
  """
  say = session.say
  # With a teacher, the scores include the distance to it.
  with_teachers = bool(config.teacher.init)
  run = session.open_trained(config, workdir, with_teachers)
  teacher_targets = None
  if run.teachers:
    teacher_targets = live.targets_on(run, live.load(run), run.mesh)
  params = outputs.student_params(run, workdir)
  held_out = evaluate_lib.prepare_sets(run, say)
  evaluator = evaluate_lib.Evaluator(
    run,
    run.student,
    teacher_targets,
    held_out,
    say,
    token_kl=config.evaluation.token_kl,
  )
  result = evaluator(params, lambda: None)
  # Runs on all processes, since each holds a part of the parameters.
  model = run.student.identity(param_digest.of(params))
  if jax.process_index() == 0:
    _write(run, workdir, result, model, say)


def _write(run, workdir, result, model, say):
  for name, value in result.metrics.items():
    say(f'{name} {value:.6g}')
  what, title = outputs.student_source(run, workdir)
  more = {'model': model, 'of': title, 'date': run_info.now(), 'sets': {}}
  for name in result.scores:
    sizes = measures.counts(result, name)
    more['sets'][name] = {
      'counts': sizes,
      'intervals': _intervals(result, name),
    }
    say(table.text(report.set_table({title: result}, name)))
    say(f'{name}: ' + ', '.join(f'{k} {v:,}' for k, v in sizes.items()))
  path = evaluation_records.path(workdir, f'eval_{what}')
  results.write(path, result, more)
  say(f'scores: {path}')
  if result.answers:
    say(f'answers: {results.answers_path(path)}')


def _intervals(result, set_name) -> dict[str, Any]:
  """Returns [value, low, high] of each metric that has an interval."""
  values = {
    m.metric: measures.value(result, set_name, m)
    for m in measures.of(result, set_name)
  }
  return {
    name: [x.value, x.low, x.high]
    for name, x in values.items()
    if isinstance(x, intervals.Interval)
  }
