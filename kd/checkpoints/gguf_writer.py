"""Writes models as GGUF files for llama.cpp."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import math
from typing import Any

import gguf
import jax
import numpy as np

from kd.checkpoints import gather
from kd.core import atomic_files
from kd.core import errors
from kd.core import types
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib

_Kind = gguf.GGMLQuantizationType
# Value of general.file_type by type.
FILE_TYPES = {'F32': 0, 'F16': 1, 'BF16': 32, 'Q8_0': 7, 'Q4_0': 2}
TOKENS = 'tokenizer.ggml.tokens'
_MOST_LAYERS = 512  # Limit of llama.cpp.


def embedding_type(chosen: str, weight_type: str) -> str:
  """Returns the type of the embedding.

  Args:
    chosen: export.gguf_embedding_type.
    weight_type: the type of the other matrices.
  """
  if chosen != 'auto':
    return chosen
  # It is also the output head: its rounding errors directly affect the logits.
  return 'Q8_0' if weight_type == 'Q4_0' else weight_type


def check(
  config: family.Config, weight_type: str, table_type: str, path: str
) -> None:
  """Raises ConfigError if a GGUF file of these types cannot hold a model.

  Args:
    config: the model.
    weight_type: type of the matrices, from FILE_TYPES.
    table_type: type of the embedding and of an untied output head.
    path: config path of the types, for messages.
  """
  if config.num_layers > _MOST_LAYERS:
    raise errors.ConfigError(
      path,
      f'the student has {config.num_layers} layers',
      legal=f'up to {_MOST_LAYERS} layers, for llama.cpp',
    )
  wrong = {}
  for t in families.of(config).tensors(config.without_vision):
    block, _ = gguf.GGML_QUANT_SIZES[_kind(t, weight_type, table_type)]
    if t.file_shape[-1] % block:
      kind = _kind(t, weight_type, table_type).name
      wrong[t.gguf] = f'{t.gguf} has rows of {t.file_shape[-1]} ({kind})'
  if wrong:
    raise errors.ConfigError(
      path,
      f'{errors.first_of(list(wrong.values()))}',
      legal='rows of a multiple of 32 values for Q8_0 and Q4_0; any for F32, '
      'F16, BF16',
    )


def _kind(
  tensor: tensors_lib.Tensor, weight_type: str, table_type: str
) -> gguf.GGMLQuantizationType:
  """Returns the type of a tensor; vectors, such as norms, stay float32."""
  if len(tensor.file_shape) == 1:
    return _Kind.F32
  return _Kind[table_type if tensor.is_table else weight_type]


def write(
  path: str,
  params: types.PyTree,
  config: family.Config,
  weight_type: str,
  table_type: str,
  metadata: Mapping[str, Any],
) -> None:
  """Writes the text model's file; see mmproj for vision towers.

  Writes a temporary file tensor by tensor, and renames it. All processes must
  call this; process 0 writes.

  Args:
    path: path of the file; replaced if it exists.
    params: the parameter tree, on host or devices.
    config: the model, which has passed `check`.
    weight_type: type of the matrices, from FILE_TYPES.
    table_type: type of the embedding and of an untied output head. Their rows
      beyond the tokenizer's tokens are dropped.
    metadata: fields of the tokenizer, and general.name.

  Raises:
    ConfigError: a value is not finite in the tensor's type.
  """
  config = config.without_vision
  chosen = families.of(config)
  rows = len(metadata[TOKENS])
  tensors = chosen.tensors(config)

  def convert(tensor, array):
    array = chosen.to_gguf(config, tensor, array)
    return array[:rows] if tensor.is_table else array

  write_file(
    path,
    chosen.gguf_architecture,
    fields(config, weight_type, metadata),
    {t.gguf: _kind(t, weight_type, table_type) for t in tensors},
    {t.gguf: (rows, *t.file_shape[1:]) for t in tensors if t.is_table},
    params,
    tensors,
    convert,
  )


def write_file(
  path: str,
  architecture: str,
  metadata: Mapping[str, Any],
  kinds: Mapping[str, gguf.GGMLQuantizationType],
  cut: Mapping[str, tuple[int, ...]],
  params: types.PyTree,
  tensors: Sequence[tensors_lib.Tensor],
  convert: Callable[[tensors_lib.Tensor, np.ndarray], np.ndarray],
) -> None:
  """Writes a temporary file tensor by tensor, and renames it; see `write`.

  Args:
    path: path of the file; replaced if it exists.
    architecture: general.architecture.
    metadata: all other fields by key.
    kinds: type of each tensor by its name in the file.
    cut: shapes that differ from Tensor.file_shape, by name in the file.
    params: the parameter tree, on host or devices.
    tensors: the tensors to write, in order.
    convert: converts a float32 parameter to the array for the file.

  Raises:
    ConfigError: a value is not finite in the tensor's type.
  """
  arrays = gather.each(params, tensors)
  if jax.process_index():
    for _ in arrays:
      pass
    return
  with atomic_files.aside(path) as aside:
    writer = gguf.GGUFWriter(aside, architecture)
    with contextlib.closing(writer):
      for key, value in metadata.items():
        _add_field(writer, key, value)
      for t in tensors:
        shape = cut.get(t.gguf, t.file_shape)
        _add_tensor(writer, t.gguf, shape, kinds[t.gguf])
      writer.write_header_to_file()
      writer.write_kv_data_to_file()
      writer.write_ti_data_to_file()
      for t, array in arrays:
        array = convert(t, array.astype(np.float32, copy=False))
        array = np.ascontiguousarray(array)
        writer.write_tensor_data(_quantize(array, kinds[t.gguf], t.gguf))


def _add_tensor(
  writer: gguf.GGUFWriter,
  name: str,
  shape: tuple[int, ...],
  kind: gguf.GGMLQuantizationType,
) -> None:
  """Adds a tensor to the header, without its values."""
  block, size = gguf.GGML_QUANT_SIZES[kind]
  count = math.prod(shape) // block * size
  writer.add_tensor_info(name, shape, np.float32, count, kind)


def _quantize(
  array: np.ndarray, kind: gguf.GGMLQuantizationType, name: str
) -> np.ndarray:
  with np.errstate(over='ignore', invalid='ignore'):
    result = gguf.quantize(array, kind)
  # The largest float16 is 65504, also for the scales of blocks.
  limits = {_Kind.F16: 1.0, _Kind.Q8_0: 127.0, _Kind.Q4_0: 8.0}
  if kind in limits:
    most = float(np.finfo(np.float16).max) * limits[kind]
    if not max(abs(float(array.max())), abs(float(array.min()))) <= most:
      raise errors.ConfigError(
        'export.gguf_type',
        f'{name} has values beyond {most:g}, the largest of {kind.name}',
        legal='F32, BF16',
      )
  return result


def fields(
  config: family.Config, weight_type: str, metadata: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a file's metadata by key, except for general.architecture.

  Args:
    config: the model.
    weight_type: type of the matrices, from FILE_TYPES.
    metadata: fields of the tokenizer, and general.name.
  """
  chosen = families.of(config)
  return {
    'general.type': 'model',
    'general.license': chosen.license,
    'general.size_label': size_label(config.parameter_count),
    **metadata,
    **{
      f'{chosen.gguf_architecture}.{key}': value
      for key, value in chosen.config_to_gguf(config).items()
    },
    'general.quantization_version': gguf.GGML_QUANT_VERSION,
    'general.file_type': FILE_TYPES[weight_type],
  }


def _add_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
  if isinstance(value, bool):
    writer.add_bool(key, value)
  elif isinstance(value, int):
    writer.add_uint32(key, value)
  elif isinstance(value, float):
    writer.add_float32(key, value)
  elif isinstance(value, str):
    writer.add_string(key, value)
  else:
    writer.add_array(key, value)


def size_label(count: int) -> str:
  """Formats a number of parameters as in published files: 270M, 4.3B."""
  for limit, letter in ((1e9, 'B'), (1e6, 'M'), (1e3, 'K')):
    if count >= limit:
      number = count / limit
      return f'{number:.1f}{letter}' if number < 10 else f'{number:.0f}{letter}'
  return str(count)
