"""Whether a version can stand in for another: tokenizer, template, context."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.checkpoints import weights
from kd.core import errors
from kd.input_pipeline import chat_templates
from kd.input_pipeline import tokenizers

TOKENIZER, TEMPLATE, CONTEXT = 'tokenizer', 'template', 'context'
# What must agree, unless `registry.compatible` says less.
ALL = (TOKENIZER, TEMPLATE, CONTEXT)


def describe(init: str, path: str) -> dict[str, Any]:
  """Returns what clients of a model depend on, and its size, as JSON.

  Reads headers of weights, and none of their values.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    path: what names it, for messages.

  Raises:
    ConfigError: it is not a model that kd loads, or lacks a tokenizer.
  """
  config = weights.model_config(init, path)
  weights.check_headers(init, path)
  tokenizer = tokenizers.load(init, path)
  return {
    'kind': init.partition(':')[0],
    'family': config.family,
    'parameters': config.parameter_count,
    TOKENIZER: tokenizer.digest,
    TEMPLATE: chat_templates.identity(init),
    CONTEXT: config.context,
  }


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
    new, old = model[what], running[what]
    # A longer context serves every prompt that the shorter one did.
    agrees = new >= old if what == CONTEXT else new == old
    if not agrees:
      differences.append(f'its {what} is {new!r}, not {old!r}')
  if differences:
    raise errors.ConfigError(
      'command line',
      f'{name} cannot replace {production}, which is in production: '
      f'{"; ".join(differences)}',
      legal='a version with the same tokenizer and template and at least the '
      'context, or less in registry.compatible',
    )
