"""Reads and writes the `config.json` of a Hugging Face folder."""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.models import families
from kd.models import family

FILE = 'config.json'


def read(directory: str, with_vision: bool = False) -> family.Config:
  """Reads DIRECTORY/config.json.

  Args:
    directory: a Hugging Face model directory.
    with_vision: whether the model has its vision tower, if there is one.

  Returns:
    The model's config; `model_type` determines its family.

  Raises:
    ConfigError: the file is missing, is not a JSON object or describes a model
      of an unknown family, or a key is missing, invalid or not supported by the
      family.
  """
  file = os.path.join(directory, FILE)
  if not os.path.isfile(file):
    raise errors.ConfigError(
      file, 'no such file', legal='a Hugging Face model directory'
    )
  config = from_dict(json_files.read(file), file)
  return config if with_vision else config.without_vision


def from_dict(raw: Mapping[str, Any], file: str) -> family.Config:
  """Converts the contents of `config.json`; see `read`."""
  path = f'{file}: model_type'
  if 'model_type' not in raw:
    raise errors.ConfigError(
      path, 'missing', legal=', '.join(families.model_types())
    )
  model_type = json_files.short(raw['model_type']).strip("'")
  return families.by_model_type(model_type, path).config_from_hf(raw, file)


def to_dict(
  config: family.Config,
  dtype: str,
  bos_id: int | None,
  eos_ids: Sequence[int],
  pad_id: int,
  image_ids: tuple[int, int, int] | None = None,
) -> dict[str, Any]:
  """Returns the `config.json` of a model.

  Args:
    config: the model.
    dtype: data type of the model's tensors, 'bfloat16' or 'float32'.
    bos_id: id of BOS; None if the tokenizer has none.
    eos_ids: ids that end generation: EOS, then end of turn.
    pad_id: id of padding.
    image_ids: ids of the start of an image, of its soft tokens and of its end;
      None if the model takes no images.

  Returns:
    JSON values.
  """
  of_images = {}
  if image_ids is not None:
    names = 'boi_token_index', 'image_token_index', 'eoi_token_index'
    of_images = dict(zip(names, image_ids, strict=True))
  return {
    'attention_dropout': 0.0,
    'bos_token_id': bos_id,
    'eos_token_id': list(eos_ids),
    'initializer_range': 0.02,
    'pad_token_id': pad_id,
    'torch_dtype': dtype,
    'use_cache': True,
    **of_images,
    **families.of(config).config_to_hf(config),
  }


def to_json(values: Mapping[str, Any]) -> str:
  """Formats JSON deterministically, with sorted keys."""
  return json.dumps(values, indent=2, sort_keys=True) + '\n'
