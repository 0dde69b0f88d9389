"""Checks the claims of the workdir's exports: digests and metrics."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import glob
import math
import os
from typing import Any

import ml_collections

from kd.checkpoints import weights
from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.core import layout
from kd.core import types
from kd.evaluation import measures
from kd.partitioning import processes
from kd.run import load_params
from kd.run import outputs
from kd.run import provenance
from kd.run import resolved
from kd.run import session
from kd.run import source as source_lib
from kd.run import workdirs
from kd.teachers import param_digest
from kd.train import evaluate as evaluate_lib
from kd.train.feeds import live

# The result of a check: whether the claim is true, and a line about it.
Finding = tuple[bool, str]

_HF = os.path.join('hf', provenance.FILE)
# Tolerances of remeasured metrics by data type of the files, relative and
# absolute. Float32 sums may be in another order, and the claimed metrics are of
# the parameters before rounding.
_LIMITS = {'float32': (1e-3, 1e-4), 'bfloat16': (0.01, 0.01)}


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Checks the provenance.json of each export in <workdir>/export.

  Raises:
    ConfigError: there is no export, or a claim is false.
  """
  folder = os.path.join(workdir, layout.EXPORT)
  buckets.fetch(folder)
  claims = {path: provenance.read(path) for path in _paths(folder)}
  hf = claims.get(_hf(folder), {})
  with_teachers = any(x.endswith(f'/{measures.KL}') for x in _metrics(hf))
  run = session.open_trained(config, workdir, with_teachers)
  findings = []
  for is_true, line in _findings(run, workdir, claims):
    findings.append(is_true)
    session.say(f'{"agrees" if is_true else "differs"}: {line}')
  if not all(findings):
    raise errors.ConfigError(
      folder,
      f'{findings.count(False)} of {len(findings)} claims are not true',
    )
  session.say(f'{folder}: all {len(findings)} claims are true')


def _findings(
  run: resolved.Run, workdir: str, claims: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
  """Yields all findings, those of the fastest checks first."""
  for path, claimed in claims.items():
    stored = functools.partial(_stored, path, claimed, workdir)
    yield from processes.from_first(stored)
  yield from _checkpoint(run, workdir, claims)
  path = _hf(os.path.join(workdir, layout.EXPORT))
  if _metrics(claims.get(path, {})):
    yield from _measured(run, os.path.dirname(path), claims[path])


def _checkpoint(
  run: resolved.Run, workdir: str, claims: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
  """Yields findings on the exported checkpoints that still exist."""
  by_choice = {}
  for path, claimed in claims.items():
    student = claimed['student']
    choice = tuple(student.get(name) for name in provenance.SELECTION)
    by_choice.setdefault((*choice, student.get('step')), []).append(path)
  for (*choice, step), paths in by_choice.items():
    chosen = _with_choice(run, choice)
    if step != outputs.student_step(chosen, workdir):
      session.say(
        f'note: the checkpoint of {errors.first_of(paths)} is gone; its digest '
        'is not checked'
      )
      continue
    digest = param_digest.of(outputs.student_params(chosen, workdir))
    rows = None if step is None else provenance.rows_digest(workdir, step)
    for path in paths:
      student = claims[path]['student']
      yield _compared(f'{path}: weights', student.get('weights'), digest)
      yield _compared(f'{path}: rows', claims[path].get('rows'), rows)


def _with_choice(run: resolved.Run, choice: Sequence[str]) -> resolved.Run:
  """Returns the run with the `export` fields that an export used."""
  config = ml_collections.ConfigDict(run.config)
  with config.unlocked():
    config.export.update(dict(zip(provenance.SELECTION, choice, strict=True)))
  return dataclasses.replace(
    run, config=ml_collections.FrozenConfigDict(config)
  )


def _hf(folder: str) -> str:
  return os.path.join(folder, _HF)


def _paths(folder: str) -> list[str]:
  """Returns the paths of the claims."""
  names = []
  for pattern in (provenance.FILE, f'*.{provenance.FILE}'):
    names += sorted(glob.glob(os.path.join('*', pattern), root_dir=folder))
  paths = [os.path.join(folder, name) for name in names]
  if not paths:
    raise errors.ConfigError(
      '--workdir',
      f'{folder!r} contains no {provenance.FILE}',
      legal='the workdir of --mode=export',
    )
  return paths


def _compared(what: str, claimed: Any, actual: Any) -> Finding:
  if claimed == actual:
    return True, what
  return False, f'{what}: claimed {claimed}, found {actual}'


def _metrics(claims: Mapping[str, Any]) -> dict[str, float]:
  """Returns the metrics that an export claims."""
  evaluation = claims.get('evaluation')
  if not isinstance(evaluation, dict):
    return {}
  return {name: float(x) for name, x in evaluation['metrics'].items()}


def _stored(
  path: str, claims: Mapping[str, Any], workdir: str
) -> list[Finding]:
  """Returns findings on files and recorded digests."""
  findings, folder = [], os.path.dirname(path)
  for name, claimed in claims['files'].items():
    file = os.path.join(folder, name)
    digest = 'no file'
    if os.path.isfile(file):
      digest = identity.file_digest(file)
    findings.append(_compared(file, claimed['sha256'], digest))
  if os.path.basename(path) == provenance.FILE:
    for name in sorted(os.listdir(folder)):
      if name not in claims['files'] and name != provenance.FILE:
        findings.append(
          (False, f'{folder}/{name}: is not among the files that it claims')
        )
  what = f'{path}: config'
  findings.append(
    _compared(what, claims.get('config'), provenance.config_digest(workdir))
  )
  inputs = workdirs.read_run(workdir)['inputs']
  for field, claimed in claims['inputs'].items():
    findings.append(_compared(f'{path}: {field}', claimed, inputs.get(field)))
  evaluation = claims.get('evaluation')
  if evaluation:
    file, digest = os.path.join(workdir, evaluation['file']), 'no file'
    if os.path.isfile(file):
      digest = identity.file_digest(file)
    findings.append(_compared(file, evaluation['sha256'], digest))
  there, here = map(_code, (claims['code'], provenance.code()))
  if there != here:
    session.say(f'note: {path}: written by {there}, checked by {here}')
  return findings


def _code(code: Mapping[str, Any]) -> str:
  """Formats the identity of a program for a message."""
  commit = code.get('commit') or 'no commit'
  return f'{commit} (sources {code.get("sources")})'


def _measured(
  run: resolved.Run, folder: str, claims: Mapping[str, Any]
) -> Iterator[Finding]:
  """Evaluates the exported weights and yields findings on the metrics."""
  inputs, teachers = claims['inputs'], []
  if run.teachers:
    teachers = live.load(run)
    specs = source_lib.of(run.config).teacher_specs()
    for spec, teacher in zip(specs, teachers, strict=True):
      field, digest = f'{spec}.init', param_digest.of(teacher.params)
      if field in inputs:
        yield _compared(f'{field}, its weights', inputs[field], digest)
  held_out = evaluate_lib.prepare_sets(run, session.say)
  for entry in held_out:
    field = f'evaluation.sets.{entry.name}'
    digest = identity.digest(entry.identity['examples'])
    if field in inputs:
      yield _compared(f'{field}, its examples', inputs[field], digest)
  # The folder contains the plain model with the student's outputs.
  model = load_params.core_of(run.student)
  params = _load(model, folder)
  if claims['dtype'] == 'float32' and model.module is run.student.module:
    yield _compared(
      f'{folder}: the parameters',
      claims['student']['weights'],
      param_digest.of(params),
    )
  targets = live.targets_on(run, teachers, run.mesh) if teachers else None
  evaluator = evaluate_lib.Evaluator(run, model, targets, held_out, session.say)
  result = evaluator(params, lambda: None)
  relative, absolute = _LIMITS[claims['dtype']]
  for name, claimed in _metrics(claims).items():
    actual = float(result.metrics.get(name, math.nan))
    limit = relative * abs(claimed) + absolute
    set_name, _, metric = name.removeprefix('eval/').partition('/')
    if not _is_likelihood(metric):
      # One or two answers may change where two words are about equally likely.
      answers = measures.counts(result, set_name).get('answers', 0)
      limit += 2 / max(answers, 1)
    line = (
      f'{name}: claimed {claimed:.6g}, measured {actual:.6g} on the files '
      f'(limit {limit:.2g})'
    )
    is_same = abs(actual - claimed) <= limit
    yield is_same or (math.isnan(actual) and math.isnan(claimed)), line


def _is_likelihood(metric: str) -> bool:
  return metric in {measure.metric for measure in measures.LIKELIHOODS}


def _load(model: resolved.Model, folder: str) -> types.PyTree:
  return weights.load(
    f'hf:{folder}',
    model.module,
    model.shardings,
    (),
    model.param_dtype,
    '--workdir',
  )
