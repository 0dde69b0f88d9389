"""Opens the models of a benchmark, in any format that kd can load."""

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

# Sections that are taken from the benchmark, not from the config of a workdir.
_SHARED = (
  *('teacher', 'data', 'evaluation', 'benchmark', 'export', 'generate'),
  *('mesh', 'objective', 'processes', 'plugins'),
)
# Data fields that are taken from the model.
_OWN = ('tokenizer', 'template')
# Values of teacher.source for runs that load no teacher; benchmarks load it.
_NOT_LOADED = ('cached', 'none')
_CHANGED = ('data.', 'teacher.', 'objective.')


@dataclasses.dataclass(frozen=True)
class Opened:
  """A model without its parameters.

  Attributes:
    place: location of the model, as given by the user.
    kind: 'workdir', 'hf' or 'gguf'.
    where: path of its folder or file.
    run: the resolved config.
    model: the model, set up for generation.
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
    """Returns the digest of the student's original parameters.

    Args:
      params: result of `params`.

    Returns:
      The digest. For an export, which may have rounded the parameters, the
      digest in its provenance. None if unknown.
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
    """Returns the folder of the run's baseline; None if there is none."""
    folder = os.path.join(self.where, outputs.BASELINE)
    is_there = self.kind == 'workdir' and outputs.has_checkpoint(folder)
    return folder if is_there else None

  def baseline_params(self) -> types.PyTree:
    """Loads the parameters of the run's baseline."""
    folder = str(self.baseline_folder)
    return generation.params(self.run, self.model, folder)


def open_model(config: ml_collections.ConfigDict, place: str) -> Opened:
  """Resolves a model and the config's teachers without loading them.

  Args:
    config: the config of the benchmark.
    place: location of the model; see any_model.locate.

  Raises:
    ConfigError: there is no model, or it is not compatible with the config.
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
  """Returns the config with the model's student, tokenizer and template."""
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
      # The other student fields were applied when the model was trained.
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
