"""Measures the importance of a model's parts and writes a pruned model."""

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

import jax
import ml_collections

from kd.checkpoints import manager
from kd.checkpoints import weights
from kd.config import base
from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import folders
from kd.core import identity as identity_lib
from kd.core import json_files
from kd.core import layout
from kd.core import run_info
from kd.core import types
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import prepare as prepare_lib
from kd.input_pipeline import rows as rows_lib
from kd.models import config_json
from kd.models import family
from kd.models.attention import attention
from kd.partitioning import processes
from kd.partitioning import rules
from kd.planning.cost import flops
from kd.pruning import calibration
from kd.pruning import picture
from kd.pruning import scores as scores_lib
from kd.pruning import selection as selection_lib
from kd.pruning import sizes
from kd.run import hf_folder
from kd.run import load_params
from kd.run import lock
from kd.run import model_card
from kd.run import model_sizes
from kd.run import outputs
from kd.run import resolve as resolve_lib
from kd.run import resolve_student
from kd.run import resolved
from kd.run import session
from kd.run import towers
from kd.run import workdirs
from kd.teachers import param_digest
from kd.train import training_rows

FOLDER = layout.PRUNE
PLAN = 'plan.json'
WEIGHTS = 'hf'


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes scores, their picture, a plan and the weights to <workdir>/prune.

  The model is the workdir's student, or else that of student.init. Without
  sizes in student.prune, only the scores and their picture are written.

  Raises:
    ConfigError: a size is illegal, or there are no weights.
    NonFiniteError: see calibration.run.
  """
  say = session.say
  config = base.checked(config)
  run = _whole(config, workdir)
  hf_tokenizer.check(run.tokenizer, 'data.tokenizer')
  request = sizes.request(config.student.prune)
  if request:
    _check(config, run, request, workdir)
  folders.check_writable(workdir, '--workdir')
  named = request and request.scores
  prepared = () if named else training_rows.prepare(run, say)
  folder = os.path.join(workdir, FOLDER)
  with lock.shared(workdir, '--workdir', say):
    # An incomplete prune/hf is no error, since it is rewritten.
    buckets.fetch(folder, check=False)
    if jax.process_index() == 0:
      os.makedirs(folder, exist_ok=True)
    params = outputs.student_params(run, workdir)
    # The plain weights include trained adapters and quantization.
    params = load_params.plain(run.student, params)
    run = dataclasses.replace(run, student=load_params.core_of(run.student))
    if named:
      scores = scores_lib.load(request, run.student.config)
    else:
      scores = _scores(run, params, prepared, folder)
    if request:
      _write(config, run, request, scores, params, workdir)
    else:
      _draw(folder, scores, None)
      names = ', '.join(f'{sizes.PATH}.{name}' for name in sizes.SIZES)
      say(f'wrote {folder}; to prune, set one of {names}')


def _whole(config, workdir) -> resolved.Run:
  """Resolves the run of the model to prune, with all its layers and sizes."""
  changed = config.copy_and_resolve_references()
  student = changed.student
  is_trained = manager.latest_step(workdir) is not None
  if student.vision == model_sizes.TEACHERS_VISION:  # No teacher is loaded.
    tower = '' if is_trained else towers.teacher_tower_source(changed)
    student.update(vision='own', vision_init=tower)
  if student.init == 'teacher':
    student.init = changed.teacher.init
  student.keep_layers = ()
  if not is_trained:
    defaults = base.get_config().student
    student.update(lora=defaults.lora, quantize=defaults.quantize)
  for name in sizes.SIZES:
    student.prune[name] = 0
  run = resolve_student.resolve_student(
    changed, session.devices(config), workdir
  )
  if run.mesh.shape[rules.PIPELINE] > 1:
    raise errors.ConfigError(
      'mesh.pipeline',
      f'found {config.mesh.pipeline}, and layers cannot be measured with '
      'pipeline stages',
      legal='1',
    )
  # The workdir's student may be pruned again, to other sizes.
  allowed = (*workdirs.NOT_TRAINED, f'{sizes.PATH}.')
  workdirs.check(config, workdir, allowed)
  workdirs.check_tokenizer(run, workdir)
  return run


def _keep_layers(config, workdir) -> Sequence[int]:
  """Returns the layers to keep; () if the student was trained with them."""
  is_trained = manager.latest_step(workdir) is not None
  return () if is_trained else tuple(config.student.keep_layers)


def _check(config, run, request, workdir):
  """Checks the sizes and prints warnings, before measuring or writing.

  Raises:
    ConfigError: a size or layer is illegal, or the mesh does not divide it.
  """
  source = run.student.config
  sizes.check(request, source)
  # The scores may select layers of other kinds, but with the same sizes.
  layers = _keep_layers(config, workdir)
  layers = layers or range(request.layers or source.num_layers)
  model = _model(config, run, request, layers, workdir)
  lines = sizes.warnings(source, model.config)
  if sizes.kept_kinds(request, source) is not None:
    lines += sizes.kinds_warning(model.config)
  for line in lines:
    session.say(f'warning: {line}')


def _model(config, run, request, layers, workdir) -> resolved.Model:
  """Returns the pruned model without its parameters."""
  keep = _keep_layers(config, workdir)
  weights.check_keep_layers(
    keep, run.student.config.num_layers, 'student.keep_layers'
  )
  built = resolve_lib.build_model(
    config,
    config.student,
    'student',
    source=run.student.config,
    sizes=sizes.pruned(request, run.student.config, layers),
    mesh=run.mesh,
    remat='none',
  )
  model = load_params.core_of(built)
  return dataclasses.replace(model, keep_layers=keep, prune=request)


def _scores(
  run: resolved.Run,
  params: types.PyTree,
  prepared: Sequence[prepare_lib.Prepared],
  folder: str,
) -> scores_lib.Scores:
  """Reads the scores from the folder, or measures them."""
  config = run.config
  rows = min(
    config.student.prune.calibration_rows,
    sum(task_rows.counts['rows'] for task_rows in prepared),
  )
  batch_size = config.evaluation.batch_size
  weights = param_digest.of(params)
  model = run.student.identity(weights)
  order = training_rows.digest(run, prepared, None)
  identity = identity_lib.digest([rows, model, order, batch_size])
  path = os.path.join(folder, scores_lib.FILE)
  if processes.from_first(lambda: _identity(folder)) == identity:
    session.say(f'reusing the scores in {path}')
    return scores_lib.read(path, '--workdir')
  job = calibration.Job(
    model=run.student.module,
    params=params,
    mesh=run.mesh,
    read=rows_lib.Rows(
      prepared, batch_size, config.seed, shuffle=True, rates=config.data.rates
    ),
    rows=rows,
    batch_size=batch_size,
    length=config.data.length,
    identity=identity,
    folder=folder,
    say=session.say,
  )
  facts = {
    'rows': rows,
    'mixture': config.data.mixture,
    scores_lib.WEIGHTS: weights,
    'identity': identity,
    'date': run_info.now(),
  }
  sums = calibration.run(job)
  scores = scores_lib.from_sums(run.student.config, sums, facts)
  if jax.process_index() == 0:
    scores_lib.write(path, scores)
    calibration.remove_partial_sums(folder)
  return scores


def _identity(folder) -> str | None:
  """Returns the identity of the scores in the folder; None without scores."""
  return json_files.read_in(folder, scores_lib.FILE).get('identity')


def _draw(folder, scores, selection):
  if jax.process_index() == 0:
    picture.draw(os.path.join(folder, picture.FILE), scores, selection)


def _write(config, run, request, scores, params, workdir):
  """Writes the picture, the plan and the weights of the pruned model."""
  folder = os.path.join(workdir, FOLDER)
  keep = _keep_layers(config, workdir)
  selection = selection_lib.select(request, scores, keep)
  model = _model(config, run, request, selection.layers, workdir)
  _draw(folder, scores, selection)
  plan = {
    'before': costs(run.student.config, config.data.length),
    'after': costs(model.config, config.data.length),
  }
  kept = {
    'layers': list(selection.layers),
    'config': config_json.to_json(model.config),
  }
  if jax.process_index() == 0:
    path = os.path.join(folder, PLAN)
    atomic_files.write_json(path, {**plan, 'kept': kept})
  for line in table(plan):
    session.say(line)
  if sizes.kept_kinds(request, run.student.config) is None:
    for line in sizes.kinds_warning(model.config):
      session.say(f'warning: {line}')
  session.say(f'kept layers: {", ".join(map(str, selection.layers))}')
  hf_folder.write(
    os.path.join(folder, WEIGHTS),
    run,
    load_params.pruned(model, params, scores),
    model.config,
    lambda new: model_card.write_notice(model.config, new),
  )
  session.say(
    f'wrote {folder}; --config.student.init=hf:{folder}/{WEIGHTS} trains it'
  )


def costs(config: family.Config, length: int) -> dict[str, Any]:
  """Returns the costs of a model for rows of `length` tokens, by name."""
  work = flops.as_computed(config, length, attention.XLA)
  operations = flops.forward(config, 1, length, work)
  operations += flops.logits(config, length, config.vocab_size)
  return {
    'parameters': config.parameter_count,
    'parameters outside the embedding': sizes.non_embedding(config),
    'bytes in bfloat16': 2 * config.parameter_count,
    'bytes in float32': 4 * config.parameter_count,
    'forward FLOPs per token': round(operations / length),
  }


def table(plan: dict[str, dict[str, Any]]) -> list[str]:
  """Formats a table of the costs before and after pruning."""
  before, after = plan['before'], plan['after']
  rows = [('', 'before', 'after', 'left')]
  rows += [
    (name, f'{value:,}', f'{after[name]:,}', f'{after[name] / value:.1%}')
    for name, value in before.items()
  ]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    '  '.join(
      [row[0].ljust(widths[0])]
      + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
    )
    for row in rows
  ]
