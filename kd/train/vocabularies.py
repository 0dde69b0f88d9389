"""One tokenizer for a student and its teachers."""

from collections.abc import Mapping

import ml_collections

from kd.core import errors
from kd.input_pipeline import tokenizers
from kd.models import gemma3_config


def tokenizer(
  data: ml_collections.ConfigDict, sources: Mapping[str, str]
) -> tokenizers.Tokenizer:
  """Returns the one tokenizer of all models.

  Args:
    data: the config's section; its tokenizer, if it names one, comes first.
    sources: by the field that names it, what may bring a tokenizer: a model's
      init, or 'workdir:DIR'.

  Raises:
    ConfigError: there is none, or the models have different ones.
  """
  found = {}
  if data.tokenizer:
    named = tokenizers.load(data.tokenizer, 'data.tokenizer')
    found['data.tokenizer'] = named
  for path, init in sources.items():
    found[path] = tokenizers.for_source(init, path)
  found = {path: t for path, t in found.items() if t is not None}
  if not found:
    raise errors.ConfigError(
      'data.tokenizer',
      "found '', and no weights bring a tokenizer",
      legal='bytes, model:FILE, gguf:FILE, hf:DIR',
    )
  (first, chosen), *others = found.items()
  for path, other in others:
    difference = other.first_difference(chosen)
    if difference:
      index, here, there = difference
      raise errors.ConfigError(
        path,
        f'its tokenizer is not that of {first}: id {index} is {here!r}, '
        f'there {there!r}',
        legal='models with one tokenizer',
      )
  return chosen


def check(
  chosen: tokenizers.Tokenizer,
  name: str,
  sizes: gemma3_config.Gemma3Config,
) -> None:
  """Refuses a model that lacks rows for some of the tokenizer's ids.

  Args:
    chosen: the tokenizer.
    name: the model's config path.
    sizes: of the model.

  Raises:
    ConfigError: its embedding is too small.
  """
  if chosen.vocab_size > sizes.vocab_size:
    raise errors.ConfigError(
      name,
      f'its embedding has {sizes.vocab_size} rows, the tokenizer '
      f'{chosen.vocab_size} ids',
      legal='an embedding with a row for each id',
    )
