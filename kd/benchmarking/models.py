"""Opens the models of a benchmark: any that kd loads, with one config."""

import copy
import dataclasses
import os
import tempfile

import ml_collections

from kd.config import base
from kd.core import errors
from kd.core import types
from kd.input_pipeline import chat_templates
from kd.run import any_model
from kd.run import generation
from kd.run import outputs
from kd.run import provenance
from kd.run import resolved
from kd.run import session
from kd.run import workdirs
from kd.teachers import param_digest

# What a benchmark decides itself, whatever a workdir's run has recorded.
_SHARED = (
  *('teacher', 'data', 'evaluation', 'benchmark', 'export', 'generate'),
  *('mesh', 'objective', 'processes', 'plugins'),
)
# What belongs to a model.
_OWN = ('tokenizer', 'template')
# Values of teacher.source of runs that load no teacher; a benchmark does.
_NOT_LOADED = ('cached', 'none')
_CHANGED = ('data.', 'teacher.', 'objective.')


@dataclasses.dataclass(frozen=True)
class Opened:
  """A model without its parameters.

  Attributes:
    place: where it is, as the user wrote it.
    kind: 'workdir', 'hf' or 'gguf'.
    where: its folder or file.
    run: the resolved config.
    model: the module, as it generates.
  """

  place: str
  kind: str
  where: str
  run: resolved.Run
  model: resolved.Model

  def params(self) -> types.PyTree:
    """Loads the parameters."""
    folder = self.where if self.kind == 'workdir' else ''
    if folder:
      return generation.params(self.run, self.model, folder)
    with tempfile.TemporaryDirectory() as no_run:
      return generation.params(self.run, self.model, no_run)

  def weights(self, params: types.PyTree) -> str | None:
    """Returns the digest of the student's parameters, as exports claim it.

    Args:
      params: from `params`.

    Returns:
      The digest; of an export the one that it claims, which may have rounded
      them. None where it is not known.
    """
    if self.kind == 'workdir':
      is_whole = self.model is self.run.student
      return param_digest.of(params) if is_whole else None
    file = os.path.join(self.where, provenance.FILE)
    if self.kind == 'gguf':
      file = f'{self.where}.{provenance.FILE}'
    if not os.path.isfile(file):
      return None
    return provenance.read(file)['student'].get('weights')

  @property
  def baseline_folder(self) -> str | None:
    """Returns the folder of the baseline that its run has trained, if any."""
    folder = os.path.join(self.where, outputs.BASELINE)
    is_there = self.kind == 'workdir' and outputs.has_checkpoint(folder)
    return folder if is_there else None

  def baseline_params(self) -> types.PyTree:
    """Loads the parameters of the run's own baseline."""
    folder = str(self.baseline_folder)
    return generation.params(self.run, self.model, folder)


def open_model(config: ml_collections.ConfigDict, place: str) -> Opened:
  """Resolves a model, and the config's teachers, without loading any.

  Args:
    config: what is measured, and how.
    place: see any_model.locate.

  Raises:
    ConfigError: there is no model, or it does not go with the config.
  """
  kind, where = any_model.locate(place)
  value = _config_of(config, kind, where)
  with tempfile.TemporaryDirectory() as no_run:
    run = session.open_trained(
      value,
      where if kind == 'workdir' else no_run,
      with_teachers=bool(value.teacher.init),
      also_allowed=_CHANGED,
    )
  return Opened(place, kind, where, run, generation.student(run))


def _config_of(config, kind, where):
  """Returns the config with a model's own student, tokenizer and template."""
  if kind == 'workdir':
    value = workdirs.recorded_config(where)
    if value is None:
      raise errors.ConfigError(
        'MODEL', f'{where!r} holds no run', legal='the workdir of a run'
      )
    own = {name: value.data[name] for name in _OWN}
  else:
    value = base.get_config()
    with value.unlocked():
      # What else the config says of a student was done when it was made.
      value.student.init = f'{kind}:{where}'
      value.student.dtype = config.student.dtype
      value.student.attention = config.student.attention
    template = config.data.template
    if template == 'plain':
      template = chat_templates.default(value.student.init)
    own = {'tokenizer': config.data.tokenizer, 'template': template}
  with value.unlocked():
    for section in _SHARED:
      value[section] = copy.deepcopy(config[section])
    value.data.update(own)
    if value.teacher.init and value.teacher.source in _NOT_LOADED:
      value.teacher.source = 'live'
    stride = config.benchmark.stride
    if stride:
      value.data.chunk_overlap = config.data.length - stride
  return value
