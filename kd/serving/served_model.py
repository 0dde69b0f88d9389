"""Defines a served model and finds models by name."""

from collections.abc import Callable, Sequence
import dataclasses
import time

from kd.config import legal
from kd.core import errors
from kd.core import types
from kd.input_pipeline import tokenizers
from kd.partitioning import rules
from kd.run import resolved
from kd.sampling import continuous
from kd.sampling import engine
from kd.sampling import fields as sampling_fields


@dataclasses.dataclass(eq=False)
class ServedModel:
  """A served model.

  Attributes:
    name: name in requests.
    run: config, tokenizer and mesh.
    batch: the continuous batch; only the scheduler's thread decodes with it.
    created: time when it was loaded, in seconds since 1970.
  """

  name: str
  run: resolved.Run
  batch: continuous.ContinuousBatch
  created: int = dataclasses.field(default_factory=lambda: int(time.time()))

  @property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """Returns the tokenizer."""
    return self.run.tokenizer

  @property
  def template(self) -> str:
    """Returns the name of the chat template."""
    return self.run.config.data.template

  @property
  def max_length(self) -> int:
    """Returns the maximum number of ids of a prompt and its answer."""
    return self.batch.shapes.length

  def token_text(self, index: int) -> str:
    """Returns the text of a token, or its name if it has no text."""
    text = self.tokenizer.decode([index])
    if text and '\N{REPLACEMENT CHARACTER}' not in text:
      return text
    return self.tokenizer.text_of(index)


# Loads a model, given its name and location.
Load = Callable[[str, str], ServedModel]


def make(
  name: str,
  run: resolved.Run,
  model: resolved.Model,
  params: types.PyTree,
  max_batch: int,
  max_length: int,
  steps: int,
  max_images: int,
) -> ServedModel:
  """Makes a served model.

  Args:
    name: name in requests.
    run: run from any_model.load.
    model: model from any_model.load.
    params: parameters from any_model.load.
    max_batch: maximum number of answers decoded at a time.
    max_length: maximum number of ids of a prompt and its answer; at most the
      model's context is used.
    steps: see continuous.Shapes.
    max_images: maximum number of images of a prompt, if the model reads images.

  Raises:
    ConfigError: the batch cannot be split evenly over the devices.
  """
  sampling_fields.check_devices(max_batch, run.mesh, 'serve.max_batch')
  shapes = continuous.Shapes(
    batch=max_batch,
    length=min(max_length, model.config.context),
    rows=rules.row_shards(run.mesh),
    steps=steps,
    images=max_images,
  )
  words = engine.vocabulary(run.tokenizer)
  with rules.active(run.mesh):
    batch = continuous.ContinuousBatch(model.module, params, words, shapes)
  return ServedModel(name, run, batch)


class UnknownModelError(errors.ConfigError):
  """Raised if a request names a model that is not served."""


def named(models: Sequence[ServedModel], name: str) -> ServedModel:
  """Returns the model with a name.

  Raises:
    UnknownModelError: there is no such model.
  """
  for model in models:
    if model.name == name:
      return model
  raise unknown(name, [model.name for model in models])


def unknown(name: str, names: Sequence[str]) -> UnknownModelError:
  """Returns the error for an unknown model name."""
  return UnknownModelError(
    'model',
    f'unknown model {legal.shown(name)}',
    legal=', '.join(names),
    nearest=errors.nearest(name, names),
  )
