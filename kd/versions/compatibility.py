"""Checks whether a version can replace another for its clients."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.checkpoints import weights
from kd.core import errors
from kd.input_pipeline import chat_templates
from kd.input_pipeline import tokenizers

TOKENIZER, TEMPLATE, CONTEXT = 'tokenizer', 'template', 'context'
IMAGES = 'images'
NO_IMAGES = 'none'
# Properties that must agree by default; see `registry.compatible`.
ALL = (TOKENIZER, TEMPLATE, CONTEXT, IMAGES)


def describe(init: str, path: str) -> dict[str, Any]:
  """Returns the properties that clients of a model depend on, as JSON.

  Reads only the headers of the weights. Includes the number of parameters.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    path: name of the model in messages.

  Raises:
    ConfigError: kd cannot load the model, or it has no tokenizer.
  """
  config = weights.model_config(init, path, with_vision=True)
  weights.check_headers(init, path, with_vision=True)
  tokenizer = tokenizers.load(init, path)
  return {
    'kind': init.partition(':')[0],
    'family': config.family,
    'parameters': config.parameter_count,
    TOKENIZER: tokenizer.digest,
    TEMPLATE: chat_templates.identity(init),
    CONTEXT: config.context,
    IMAGES: _images(config.vision),
  }


def _images(vision):
  """Returns the image format of a model, which prompts depend on."""
  if vision is None:
    return NO_IMAGES
  return f'{vision.image_size} px in {vision.soft_tokens} tokens'


def check(
  name: str,
  model: Mapping[str, Any],
  production: str,
  running: Mapping[str, Any],
  required: Sequence[str],
) -> None:
  """Raises ConfigError unless a version can serve the running one's clients.

  Args:
    name: name of the version.
    model: description of the version, from `describe`.
    production: name of the version in production.
    running: description of the version in production.
    required: properties that must agree, from ALL.
  """
  differences = []
  for what in required:
    new, old = _of(model, what), _of(running, what)
    agrees = new == old
    if what == CONTEXT:
      # A longer context fits every prompt of a shorter one.
      agrees = new >= old
    elif what == IMAGES:
      agrees = old in (new, NO_IMAGES)
    if not agrees:
      differences.append(f'its {what} is {new!r}, not {old!r}')
  if differences:
    raise errors.ConfigError(
      'command line',
      f'{name} cannot replace {production}, which is in production: '
      f'{"; ".join(differences)}',
      legal='a version with the same tokenizer and template, at least the '
      'context and the same images, or fewer entries in registry.compatible',
    )


def _of(model, what):
  # Descriptions of versions without images may be older than the field.
  return model.get(what, NO_IMAGES) if what == IMAGES else model[what]
