"""Whether a version can stand in for another: tokenizer, template, context."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.checkpoints import weights
from kd.core import errors
from kd.input_pipeline import chat_templates
from kd.input_pipeline import tokenizers

TOKENIZER, TEMPLATE, CONTEXT = 'tokenizer', 'template', 'context'
IMAGES = 'images'
NO_IMAGES = 'none'
# What must agree, unless `registry.compatible` says less.
ALL = (TOKENIZER, TEMPLATE, CONTEXT, IMAGES)


def describe(init: str, path: str) -> dict[str, Any]:
  """Returns what clients of a model depend on, and its size, as JSON.

  Reads headers of weights, and none of their values.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    path: what names it, for messages.

  Raises:
    ConfigError: it is not a model that kd loads, or lacks a tokenizer.
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
  """Returns how a model takes images, which prompts depend on."""
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
    name: of the version.
    model: from `describe`.
    production: the name of the version in production.
    running: the same of it.
    required: what must agree, of ALL.
  """
  differences = []
  for what in required:
    new, old = _of(model, what), _of(running, what)
    agrees = new == old
    if what == CONTEXT:
      # A longer context serves every prompt that the shorter one did.
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
      'context and the same images, or less in registry.compatible',
    )


def _of(model, what):
  # Versions were described without images before there were towers.
  return model.get(what, NO_IMAGES) if what == IMAGES else model[what]
