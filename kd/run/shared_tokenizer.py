"""Loads the common tokenizer of a student and its teachers."""

from collections.abc import Callable, Mapping
import dataclasses
import logging

import ml_collections

from kd.checkpoints import weights
from kd.core import errors
from kd.input_pipeline import tokenizer_differences
from kd.input_pipeline import tokenizers
from kd.models import family
from kd.run import model_sizes

_LOG = logging.getLogger(__name__)
_MULTIPLE = 8  # The rows of an embedding are a multiple of this.


def tokenizer(
  data: ml_collections.ConfigDict, sources: Mapping[str, str]
) -> tokenizers.Tokenizer:
  """Returns the common tokenizer of all models.

  Args:
    data: section `data` of the config; its tokenizer takes precedence.
    sources: possible sources of a tokenizer by the field that names them: a
      model's init, or 'workdir:DIR'.

  Raises:
    ConfigError: no source has a tokenizer, or the models have different ones.
  """
  found, loaded = {}, {}
  if data.tokenizer:
    named = tokenizers.load(data.tokenizer, 'data.tokenizer')
    found['data.tokenizer'] = loaded[data.tokenizer] = named
  for path, init in sources.items():
    try:
      if init not in loaded:
        loaded[init] = tokenizers.for_source(init, path)
      found[path] = loaded[init]
    except errors.ConfigError as e:
      # The tokenizer of the folder is missing or of another kind.
      if not data.tokenizer:
        raise
      _LOG.info('%s; data.tokenizer is used', e)
  found = {path: t for path, t in found.items() if t is not None}
  if not found:
    raise errors.ConfigError(
      'data.tokenizer',
      "found '', and no weights come with a tokenizer",
      legal='bytes, model:FILE, gguf:FILE, hf:DIR',
    )
  (first, chosen), *others = found.items()
  for path, other in others:
    difference = tokenizer_differences.describe(
      other, chosen, 'here', f'in {first}'
    )
    if difference:
      more = ", or teacher.tokenizer 'own'" if path == 'teacher.init' else ''
      raise errors.ConfigError(
        path,
        f'its tokenizer is not that of {first}: {difference}',
        legal=f'models with one tokenizer{more}',
      )
  return chosen


def source_config(
  tokenizer: Callable[[], tokenizers.Tokenizer],
  teachers: Callable[[], tokenizers.Tokenizer] | None = None,
) -> Callable[..., family.Config]:
  """Returns model_sizes.source_config without padding of embeddings in files.

  Published embeddings have rows beyond the tokenizer's ids (64 in Gemma 3 4B
  and up). They are cut when weights are read, so they are never sampled and do
  not enter a softmax. A multiple of 8 rows is kept, which devices can divide.

  Args:
    tokenizer: function that returns the tokenizer; called only for models in
      files.
    teachers: the same for the teachers, if they have their own tokenizer.
  """

  def of(spec, path, teacher):
    sizes = model_sizes.source_config(spec, path, teacher)
    if spec['init'].partition(':')[0] not in weights.PREFIXES:
      return sizes
    own = teachers if teachers and path != 'student' else tokenizer
    rows = -(-own().vocab_size // _MULTIPLE) * _MULTIPLE
    return dataclasses.replace(sizes, vocab_size=min(sizes.vocab_size, rows))

  return of


def check(
  chosen: tokenizers.Tokenizer,
  name: str,
  sizes: family.Config,
) -> None:
  """Raises ConfigError if a model lacks rows for some of the tokenizer's ids.

  Args:
    chosen: the tokenizer.
    name: config path of the model.
    sizes: sizes of the model.

  Raises:
    ConfigError: the model's embedding is too small.
  """
  if chosen.vocab_size > sizes.vocab_size:
    lacking = [
      chosen.text_of(i) for i in range(sizes.vocab_size, chosen.vocab_size)
    ]
    rest = ', ...' if len(lacking) > 4 else ''
    raise errors.ConfigError(
      name,
      f'its embedding has {sizes.vocab_size} rows, the tokenizer '
      f'{chosen.vocab_size} ids: no row for '
      f'{", ".join(map(repr, lacking[:4]))}{rest}',
      legal='an embedding with a row for each id',
    )
