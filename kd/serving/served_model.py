"""A model as the server has it."""

from collections.abc import Sequence
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
  """A model that requests name.

  Attributes:
    name: what requests call it.
    run: its config, tokenizer and mesh.
    batch: what decodes; the scheduler's thread alone uses it.
    created: when it was loaded, in seconds since 1970.
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
    """Returns the most ids of a prompt and its answer."""
    return self.batch.shapes.length

  def token_text(self, index: int) -> str:
    """Returns a token's text, or its name if it has no text of its own."""
    text = self.tokenizer.decode([index])
    if text and '\N{REPLACEMENT CHARACTER}' not in text:
      return text
    return self.tokenizer.text_of(index)


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
  """Makes a model that can be served.

  Args:
    name: what requests call it.
    run: from any_model.load, as are the next two.
    model: the model.
    params: its parameters.
    max_batch: answers that are decoded at a time.
    max_length: the most ids of a prompt and its answer, as far as the model's
      context allows.
    steps: see continuous.Shapes.
    max_images: the most images of a prompt, if the model reads images.

  Raises:
    ConfigError: devices don't divide the batch.
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
  """A request names a model that is not served."""


def named(models: Sequence[ServedModel], name: str) -> ServedModel:
  """Returns the model of a name.

  Raises:
    UnknownModelError: there is none.
  """
  for model in models:
    if model.name == name:
      return model
  raise unknown(name, [model.name for model in models])


def unknown(name: str, names: Sequence[str]) -> UnknownModelError:
  """Returns the error for a name that no model has."""
  return UnknownModelError(
    'model',
    f'unknown model {legal.shown(name)}',
    legal=', '.join(names),
    nearest=errors.nearest(name, names),
  )
