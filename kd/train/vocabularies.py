"""One tokenizer for a student and its teachers."""

from collections.abc import Mapping

import ml_collections

from kd.core import errors
from kd.input_pipeline import tokenizers
from kd.models import gemma3_config


def tokenizer(
  config: ml_collections.ConfigDict,
  teachers: Mapping[str, ml_collections.ConfigDict],
) -> tokenizers.Tokenizer:
  """The run's tokenizer.

  Args:
    config: the run's.
    teachers: what the config says of each teacher, by its path.

  Raises:
    ConfigError: there is none, or the models have different ones.
  """
  specs = {**teachers, 'student': config.student}
  found = {
    f'{path}.init': tokenizers.for_source(spec.init, f'{path}.init')
    for path, spec in specs.items()
  }
  if config.teacher.source == 'cached':
    # It keeps that of the teacher.
    cache = f'workdir:{config.cache.folder}'
    found['cache.folder'] = tokenizers.for_source(cache, 'cache.folder')
  if config.data.tokenizer:
    found = {
      'data.tokenizer': tokenizers.load(
        config.data.tokenizer, 'data.tokenizer'
      ),
      **found,
    }
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
