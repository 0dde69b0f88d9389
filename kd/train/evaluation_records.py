"""Records evaluations and reuses those that are still valid.

An evaluation is reused only if its model, teachers, examples and settings are
unchanged, regardless of file names. Otherwise it is repeated.
"""

from collections.abc import Callable, Mapping, Sequence
import os

import jax

from kd.core import buckets
from kd.core import config as config_lib
from kd.core import identity
from kd.core import paths
from kd.core import progress
from kd.core import run_info
from kd.evaluation import results
from kd.input_pipeline import task_code
from kd.partitioning import processes
from kd.run import outputs
from kd.run import resolved
from kd.train import evaluate

_FORMAT = 1  # Increment when the meaning of a recorded metric changes.
_SHARED = 'evaluations'  # Folder in data.folder of evaluations of teachers.


def path(workdir: str, name: str) -> str:
  """Returns the path of a recorded evaluation."""
  return os.path.join(workdir, outputs.EVALUATIONS, f'{name}.json')


class Recorder:
  """Runs evaluations, or returns recorded ones that are still valid."""

  def __init__(
    self,
    run: resolved.Run,
    held_out: Sequence[evaluate.HeldOut],
    teacher_digests: Sequence[str],
    say: progress.Say,
  ):
    """Initializes the recorder.

    Args:
      run: the resolved run.
      held_out: the evaluation sets.
      teacher_digests: digest of the parameters of each teacher of the run.
      say: function that prints a line on each reused or outdated evaluation.
    """
    self._say = say
    self._shared = os.path.join(
      paths.expand_sparse(run.config.data.folder), _SHARED
    )
    self._common = {
      'format': _FORMAT,
      'jax': jax.__version__,
      'platform': jax.default_backend(),
      'teachers': [
        {**teacher.model.identity(digest), 'share': teacher.weight}
        for teacher, digest in zip(run.teachers, teacher_digests, strict=True)
      ],
      'sets': {s.name: s.identity for s in held_out},
      'template': run.config.data.template,
      'tokenizer': run.tokenizer.digest,
      'max_new_tokens': run.config.evaluation.max_new_tokens,
    }
    if run.config.evaluation.metrics:
      self._common['metrics'] = list(run.config.evaluation.metrics)
      self._common['plugins'] = task_code.plugin_digests()

  def __call__(
    self,
    workdir: str,
    name: str,
    model: resolved.Model,
    weights: str,
    measure: Callable[[], results.Result],
    shared: bool = False,
  ) -> Mapping[str, float]:
    """Returns the metrics of an evaluation.

    Args:
      workdir: workdir in whose folder `evaluations` it is recorded.
      name: name of the record.
      model: the model to evaluate.
      weights: digest of its parameters, from param_digest.of.
      measure: function that runs the evaluation.
      shared: whether to share the record with other workdirs, as for teachers,
        whose evaluations do not depend on the run.
    """
    wanted = {**self._common, 'model': model.identity(weights)}
    places = [path(workdir, name)]
    if shared:
      file = f'{identity.digest(wanted)}.json'
      places.append(os.path.join(self._shared, file))
    # Process 0 decides, since all processes must take the same branch.
    metrics = processes.from_first(lambda: self._reuse(places, wanted))
    if metrics is not None:
      return metrics
    result = measure()
    if jax.process_index() == 0:
      for place in places:
        results.write(place, result, {'identity': wanted})
    return result.metrics

  def _reuse(self, places, wanted):
    """Returns the metrics of a record with this identity, or None.

    A record of another workdir is copied into this one.
    """
    for place in places:
      buckets.fetch(place, check=False)
      recorded = results.read(place)
      if recorded is None:
        continue
      fields, result = recorded
      date = run_info.date(place)
      lines = config_lib.difference_lines(fields.get('identity', {}), wanted)
      if not lines:
        self._say(f'{place}: evaluation of {date} reused')
        if place != places[0]:
          results.write(places[0], result, fields)
        return result.metrics
      self._say(
        f'{place}: evaluation of {date} is outdated ({lines[0]}); evaluating '
        'again'
      )
    return None
