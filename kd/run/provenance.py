"""Writes and reads the claims of an export about its origin and quality."""

from collections.abc import Mapping, Sequence
import glob
import os
import shutil
import subprocess
from typing import Any

import kd
from kd.checkpoints import manager
from kd.core import atomic_files
from kd.core import errors
from kd.core import identity
from kd.core import json_files
from kd.core import paths
from kd.core import run_info
from kd.evaluation import measures
from kd.evaluation import results
from kd.input_pipeline import task_code
from kd.run import outputs
from kd.run import resolved
from kd.run import workdirs

FILE = 'provenance.json'
# The fields of `export` that choose the parameters.
SELECTION = ('checkpoint', 'params')
_FORMAT = 1
_GIT_TIMEOUT_S = 20


def collect(
  run: resolved.Run, workdir: str, weights: str
) -> tuple[dict[str, Any], results.Result | None]:
  """Returns the claims about weights, independent of their file format.

  Args:
    run: the resolved run.
    workdir: the run's folder; without a run, the weights are student.init's.
    weights: digest of the student's parameters.

  Returns:
    The claims as JSON, and the evaluation of the weights or None.
  """
  step = outputs.student_step(run, workdir)
  source = weights_name(run.student.init)
  if step is not None:
    _, source = outputs.student_source(run, workdir)
  student = {
    'source': source,
    **{name: run.config.export[name] for name in SELECTION},
    **run.student.identity(weights),
  }
  evaluation, result = _evaluation(workdir, weights)
  claims = {
    'format': _FORMAT,
    'date': run_info.now(),
    'code': code(),
    'packages': run_info.packages(),
    'config': config_digest(workdir),
    'student': student,
    'inputs': workdirs.read_run(workdir)['inputs'],
    'rows': None,
    'evaluation': evaluation,
  }
  if step is not None:
    student['step'], claims['rows'] = step, rows_digest(workdir, step)
  return claims, result


def weights_name(init: str) -> str:
  """Returns a name for weights without the folders of this machine.

  Args:
    init: source of the weights, such as hf:/models/gemma-3-4b-pt.
  """
  _, colon, place = init.partition(':')
  if not colon:
    return init
  return os.path.basename(place.rstrip('/')).removesuffix('.gguf')


def rows_digest(workdir: str, step: int) -> str:
  """Returns the digest of the rows that a checkpoint was trained on."""
  saved = manager.Manager(workdir, keep=1, read_only=True)
  _, position = saved.restore(step, {})
  saved.close()
  return position['rows']


def config_digest(workdir: str) -> str | None:
  """Returns the digest of a run's config; None without a run."""
  config = json_files.read_in(workdir, workdirs.CONFIG_FILE)
  return identity.digest(config) if config else None


def _evaluation(
  workdir: str, weights: str
) -> tuple[dict[str, Any] | None, results.Result | None]:
  """Returns a recorded evaluation of the weights.

  Evaluations of the run take precedence over those of --mode=eval, which may
  use other sets.
  """
  folder = os.path.join(workdir, outputs.EVALUATIONS)
  names = [*glob.glob('step_*.json', root_dir=folder)]
  names += sorted(glob.glob('eval_*.json', root_dir=folder))
  for path in (os.path.join(folder, name) for name in names):
    recorded = results.read(path)
    if recorded is None:
      continue
    fields, result = recorded
    model = fields.get('identity', fields).get('model')
    if not isinstance(model, dict) or model.get('weights') != weights:
      continue
    evaluation = {
      'file': os.path.relpath(path, workdir),
      'sha256': identity.file_digest(path),
      'metrics': metrics(result),
    }
    return evaluation, result
  return None, None


def metrics(result: results.Result) -> dict[str, float | str | None]:
  """Returns the metrics of an evaluation that an export claims.

  Metrics that only explain others, such as counts of answers without a number,
  are omitted.
  """
  claimed = {}
  for name in result.scores:
    for measure in measures.of(result, name):
      key = f'eval/{name}/{measure.metric}'
      if not measure.about.diagnostic and key in result.metrics:
        claimed[key] = run_info.json_number(result.metrics[key])
  return claimed


def code() -> dict[str, Any]:
  """Returns the identity of this program.

  Returns:
    The version, the git commit of the checkout and whether files differ from it
    (None without a checkout), and the digests of the package's sources and of
    plugins.
  """
  package = paths.package_folder()
  names = sorted(glob.glob('**/*.py', root_dir=package, recursive=True))
  sources = {n: identity.file_digest(os.path.join(package, n)) for n in names}
  # An installed package may be inside a repository of the user.
  in_git = paths.is_checkout()
  commit = _git(package, 'rev-parse', 'HEAD') if in_git else None
  modified = None
  if commit is not None:
    modified = bool(_git(package, 'status', '--porcelain', '--', '.'))
  return {
    'version': kd.__version__,
    'commit': commit,
    'modified': modified,
    'sources': identity.digest(sources),
    'plugins': task_code.plugin_digests(),
  }


def _git(folder: str, *arguments: str) -> str | None:
  """Returns the output of git in a folder; None outside of a checkout."""
  if not shutil.which('git'):
    return None
  done = subprocess.run(
    ['git', '-C', folder, *arguments],
    check=False,
    capture_output=True,
    text=True,
    timeout=_GIT_TIMEOUT_S,
  )
  return done.stdout.strip() if done.returncode == 0 else None


def write(
  path: str, claims: Mapping[str, Any], dtype: str, names: Sequence[str]
) -> None:
  """Writes the claims about files.

  Args:
    path: path of the claims.
    claims: the claims, from `collect`.
    dtype: data type of the weights in the files.
    names: names of the files, which are in the same folder.
  """
  folder = os.path.dirname(path)
  files = {}
  for name in sorted(names):
    file = os.path.join(folder, name)
    files[name] = {
      'bytes': os.path.getsize(file),
      'sha256': identity.file_digest(file),
    }
  atomic_files.write_json(path, {**claims, 'dtype': dtype, 'files': files})


def read(path: str) -> dict[str, Any]:
  """Reads the claims about files.

  Raises:
    ConfigError: the file is damaged, or another version of kd wrote it.
  """
  claims = json_files.read(path)
  kinds = {'code': dict, 'student': dict, 'inputs': dict}
  kinds |= {'dtype': str, 'files': dict}
  is_whole = claims.get('format') == _FORMAT and all(
    isinstance(claims.get(key), kind) for key, kind in kinds.items()
  )
  if not is_whole or not _are_claims(claims):
    raise errors.ConfigError(
      path,
      'is damaged, or of another version',
      legal='the file as --mode=export wrote it',
    )
  return claims


def _are_claims(claims: Mapping[str, Any]) -> bool:
  """Returns whether the claims about files and metrics are well-formed."""
  empty = {'file': '', 'sha256': '', 'metrics': {}}
  try:
    evaluation = claims['evaluation'] or empty
    texts = [evaluation['file'], evaluation['sha256']]
    texts += [entry['sha256'] for entry in claims['files'].values()]
    for number in evaluation['metrics'].values():
      float(number)
  except (AttributeError, KeyError, TypeError, ValueError):
    return False
  return all(isinstance(text, str) for text in texts)
